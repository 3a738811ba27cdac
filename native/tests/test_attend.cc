// Attention over pages against a softmax in double precision, and bit by bit whatever rows are computed together.
#include <algorithm>

#include "support.h"

using namespace gemlet;

namespace {

// One layer's pages filled for `positions`, and what they hold.
struct Cache {
  AttendShape shape;
  int positions;
  std::vector<std::vector<uint16_t>> pages;
  std::vector<uint16_t*> pointers;

  Cache(const Kernels& k, const AttendShape& shape, int positions, float scale, Random& random) : shape(shape), positions(positions) {
    pages.resize(static_cast<size_t>((positions + kPagePositions - 1) / kPagePositions), std::vector<uint16_t>(static_cast<size_t>(shape.kv_heads * shape.page_head_elements())));
    for (auto& page : pages) pointers.push_back(page.data());
    const size_t width = static_cast<size_t>(shape.kv_heads * shape.head_dim);
    for (int p = 0; p < positions; p++) {
      const std::vector<float> keys = random.normals(width, scale), values = random.normals(width);
      k.store_key_value(keys.data(), values.data(), shape, pointers[static_cast<size_t>(p / kPagePositions)], p % kPagePositions);
    }
  }
  // Pages before the first that a query at `position` sees do not exist.
  PageTable table(int position) const {
    const int first = shape.first_visible(position) / kPagePositions;
    return {pointers.data() + first, first};
  }
  const uint16_t* head(int kv_head, int position) const { return pages[static_cast<size_t>(position / kPagePositions)].data() + kv_head * shape.page_head_elements(); }
  double key(int kv_head, int position, int i) const { return half_value(head(kv_head, position)[i * kPagePositions + position % kPagePositions]); }
  double value(int kv_head, int position, int i) const {
    const int padded = shape.padded_dim();
    return half_value(head(kv_head, position)[padded * kPagePositions + position % kPagePositions * padded + i]);
  }
};

// Queries [positions * group][padded], scaled already; rows of the padding are poisoned, since nothing may look at them.
std::vector<float> random_queries(const AttendShape& s, int positions, Random& random) {
  std::vector<float> q(static_cast<size_t>(positions * s.group() * s.padded_dim()), NAN);
  for (size_t row = 0; row < static_cast<size_t>(positions * s.group()); row++)
    for (int i = 0; i < s.head_dim; i++) q[row * static_cast<size_t>(s.padded_dim()) + static_cast<size_t>(i)] = random.normal() * s.scale;
  return q;
}

// Attention of `rows` queries from `position` on: partitions one after the other, or all of them first and joined at the end.
std::vector<float> attend(const Kernels& k, const Cache& cache, int kv_head, const float* queries, int position, int rows, bool split) {
  const AttendShape& s = cache.shape;
  const size_t tile = static_cast<size_t>(rows * s.group()), wide = static_cast<size_t>(s.padded_dim());
  const int first = s.first_visible(position) / kPartition, last = (position + rows - 1) / kPartition;
  std::vector<float> scratch(tile * kPagePositions, NAN);
  struct Part {
    std::vector<float> sums, peaks, totals;
    Partial view() { return {sums.data(), peaks.data(), totals.data()}; }
  };
  std::vector<Part> parts(static_cast<size_t>(last - first + 1), {std::vector<float>(tile * wide, NAN), std::vector<float>(tile, NAN), std::vector<float>(tile, NAN)});
  const auto compute = [&](int p) { k.attend_partition(queries, s, kv_head, cache.table(position), first + p, position, rows, parts[static_cast<size_t>(p)].view(), scratch.data()); };
  const auto join = [&](int p) { k.join_partial(parts[0].view(), parts[static_cast<size_t>(p)].view(), static_cast<int>(tile), s.padded_dim()); };
  const int count = static_cast<int>(parts.size());
  if (split) {
    for (int p = count - 1; p >= 0; p--) compute(p);
    for (int p = 1; p < count; p++) join(p);
  } else {
    compute(0);
    for (int p = 1; p < count; p++) compute(p), join(p);
  }
  std::vector<float> out(tile * static_cast<size_t>(s.head_dim));
  for (size_t m = 0; m < tile; m++)
    for (size_t i = 0; i < static_cast<size_t>(s.head_dim); i++) out[m * static_cast<size_t>(s.head_dim) + i] = parts[0].sums[m * wide + i] / parts[0].totals[m];
  return out;
}

// A score has head_dim additions, each with up to two roundings, of parts of magnitude m = sum |q k|: off by 2 (head_dim + 1) units of m.
// Its power is off by that, by the rounding of its argument (at most the spread of the scores), by exp's 2e-7; and by one such exp and
// two roundings each time the peak rises or a partition is joined, at most once a page and once a partition. Sums add two roundings a
// position. All of it is relative to the weights, on both sides of the division, and weights times values are at most `largest`.
void check_query(const Kernels& k, const Cache& cache, int kv_head, const float* query, int position, const float* got) {
  const AttendShape& s = cache.shape;
  std::vector<double> scores;
  double magnitude = 0, largest = 0, total = 0;
  const int first = s.first_visible(position);
  for (int p = first; p <= position; p++) {
    double score = 0, size = 0;
    for (int i = 0; i < s.head_dim; i++) {
      score += query[i] * cache.key(kv_head, p, i);
      size += std::fabs(query[i] * cache.key(kv_head, p, i));
      largest = std::max(largest, std::fabs(cache.value(kv_head, p, i)));
    }
    scores.push_back(score);
    magnitude = std::max(magnitude, size);
  }
  const double peak = *std::max_element(scores.begin(), scores.end()), spread = peak - *std::min_element(scores.begin(), scores.end());
  for (double& score : scores) total += score = std::exp(score - peak);
  const double seen = static_cast<double>(scores.size()), joins = seen / 64 + seen / 512 + 4;
  const double relative = (2 * (s.head_dim + 1) * magnitude + spread + 2 * seen) * kUnit + 2e-7 + joins * (2e-7 + 2 * kUnit);
  for (int i = 0; i < s.head_dim; i++) {
    double expected = 0;
    for (size_t j = 0; j < scores.size(); j++) expected += scores[j] * cache.value(kv_head, first + static_cast<int>(j), i);
    expected /= total;
    CHECK_WITH(std::fabs(got[i] - expected) <= 2 * relative * largest, k.name, s.window, position, i, got[i], expected, relative);
  }
}

void check_shape(const Kernels& k, AttendShape shape, int positions, float key_scale, Random& random) {
  shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  const Cache cache(k, shape, positions, key_scale, random);
  const int group = shape.group();
  const size_t row_floats = static_cast<size_t>(group * shape.padded_dim()), out_floats = static_cast<size_t>(group * shape.head_dim);
  const std::vector<float> queries = random_queries(shape, positions, random);
  const int kv_head = random.below(shape.kv_heads);
  std::vector<float> whole;  // tiles of up to 32 rows, heads counted
  const int tile_rows = std::max(1, 32 / group);
  for (int p = 0; p < positions; p += tile_rows) {
    const std::vector<float> part = attend(k, cache, kv_head, queries.data() + static_cast<size_t>(p) * row_floats, p, std::min(tile_rows, positions - p), false);
    whole.insert(whole.end(), part.begin(), part.end());
  }
  for (int i = 0; i < 24; i++) {  // half of them where the most partitions are joined
    const int p = i % 2 ? random.below(positions) : positions - 1 - i, g = random.below(group);
    check_query(k, cache, kv_head, queries.data() + static_cast<size_t>(p) * row_floats + g * shape.padded_dim(), p, whole.data() + static_cast<size_t>(p) * out_floats + g * shape.head_dim);
  }
  for (int i = 0; i < 24; i++) {  // other tiles, whole and in parts
    const int p = i ? random.below(positions) : 0, rows = i % 3 ? std::min(random.between(1, tile_rows), positions - p) : 1;
    const std::vector<float> part = attend(k, cache, kv_head, queries.data() + static_cast<size_t>(p) * row_floats, p, rows, i % 2);
    CHECK_WITH(same_bits(part.data(), whole.data() + static_cast<size_t>(p) * out_floats, part.size()), k.name, shape.window, p, rows);
  }
}

// No score is finite, or none of the values: what comes out is of no use, but defined.
void check_not_finite(const Kernels& k, Random& random) {
  const AttendShape shape{2, 1, 16, 0, 1.0f};
  Cache cache(k, shape, 70, 1, random);
  std::vector<float> queries(2 * 16, kInfinity);
  attend(k, cache, 0, queries.data(), 69, 1, false);
  queries.assign(queries.size(), NAN);
  attend(k, cache, 0, queries.data(), 69, 1, false);
  for (uint16_t& h : cache.pages[0]) h = 0x7e00;
  attend(k, cache, 0, queries.data(), 69, 1, true);
}

}  // namespace

int main() {
  Random random(5);
  for (const Kernels* k : all_kernels()) {
    for (int window : {0, 1, 63, 64, 65, 512}) check_shape(*k, {4, 1, 32, window, 0}, 700, 1, random);
    check_shape(*k, {1, 1, 24, 0, 0}, 1100, 1, random);   // three partitions, a head that needs padding
    check_shape(*k, {1, 1, 3, 7, 0}, 300, 1, random);
    check_shape(*k, {6, 2, 80, 30, 0}, 200, 1, random);
    check_shape(*k, {8, 4, 256, 100, 0}, 130, 1, random);
    check_shape(*k, {3, 3, 16, 0, 0}, 600, 30, random);   // sharp: peaks rise, most powers vanish
    check_shape(*k, {40, 1, 16, 0, 0}, 70, 0, random);    // flat, and more heads than a tile has rows
    check_not_finite(*k, random);
  }
}
