// The pages of sequences against a list of what was written, through random histories of several sequences that share pages.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "gemlet/kv_state.h"
#include "support.h"

using namespace gemlet;

namespace {

std::shared_ptr<KvLayout> small_layout(int context) {
  auto layout = std::make_shared<KvLayout>();
  layout->layers = {{2, 1, 5, 100, 1.0f}, {1, 1, 16, 0, 1.0f}, {2, 2, 3, 1, 1.0f}, {1, 1, 1, 64, 1.0f}};
  layout->context = context;
  return layout;
}

// A position's mark fills its place in every head; marks are never zero.
void write(KvState& state, int layer, int position, uint16_t mark) {
  const AttendShape& s = state.layout().layers[static_cast<size_t>(layer)];
  for (int head = 0; head < s.kv_heads; head++) {
    uint16_t* keys = state.page(layer, position) + head * s.page_head_elements();
    uint16_t* values = keys + s.padded_dim() * kPagePositions;
    for (int i = 0; i < s.padded_dim(); i++) keys[i * kPagePositions + position % kPagePositions] = values[position % kPagePositions * s.padded_dim() + i] = mark;
  }
}

struct Sequence {
  KvState state;
  std::vector<uint16_t> marks;

  void check(int max_rows) const {
    const int length = static_cast<int>(marks.size());
    CHECK(state.length() == length);
    CHECK_WITH(state.nbytes() <= KvState::price(state.layout(), length, std::min(length, max_rows)), length, state.nbytes());
    for (int layer = 0; layer < static_cast<int>(state.layout().layers.size()); layer++) {
      const AttendShape& s = state.layout().layers[static_cast<size_t>(layer)];
      const PageTable table = state.table(layer);
      for (int p = state.layout().first_needed(layer, length); p < length; p++)
        for (int head = 0; head < s.kv_heads; head++) {
          const uint16_t* keys = table.pages[p / kPagePositions - table.first_page] + head * s.page_head_elements();
          const uint16_t* values = keys + s.padded_dim() * kPagePositions;
          for (int i = 0; i < s.padded_dim(); i++) {
            const uint16_t mark = marks[static_cast<size_t>(p)];
            CHECK_WITH(keys[i * kPagePositions + p % kPagePositions] == mark && values[p % kPagePositions * s.padded_dim() + i] == mark, layer, p, length);
          }
        }
    }
  }

  void step(int rows, int max_rows, Random& random) {
    state.reserve(rows);
    CHECK(state.nbytes() <= KvState::price(state.layout(), state.length() + rows, max_rows));
    for (int i = 0; i < rows; i++) {
      marks.push_back(static_cast<uint16_t>(1 + random.below(60000)));
      for (int layer = 0; layer < static_cast<int>(state.layout().layers.size()); layer++) write(state, layer, state.length() + i, marks.back());
    }
    state.advance(rows);
  }

  // The bound of a cut is exact: allowed as long as no layer has dropped what a query at its end would see.
  void trim(int length, int longest) {
    bool possible = length >= 0 && length <= state.length();
    for (int layer = 0; possible && layer < static_cast<int>(state.layout().layers.size()); layer++)
      possible = state.layout().first_needed(layer, length) >= state.table(layer).first_page * kPagePositions;
    if (possible) {
      state.trim(length);
      marks.resize(static_cast<size_t>(length));
    } else {
      CHECK_WITH(length < 0 || length > state.length() || length + kPagePositions < longest, length, longest);
      CHECK_THROWS(std::out_of_range, state.trim(length));
    }
  }
};

void check_history(uint32_t seed) {
  Random random(seed);
  const int max_rows = std::vector<int>{1, 7, 64, 256}[seed % 4], context = 900;
  const auto layout = small_layout(context);
  std::vector<Sequence> sequences;
  sequences.push_back({KvState(layout), {}});
  std::vector<int> longest{0};
  for (int i = 0; i < 120; i++) {
    const size_t at = static_cast<size_t>(random.below(static_cast<int>(sequences.size())));
    Sequence& sequence = sequences[at];
    const int length = sequence.state.length(), rows = random.between(1, max_rows);
    switch (random.below(8)) {
      default:
        if (length + rows > context) {
          CHECK_THROWS(std::length_error, sequence.state.reserve(rows));
        } else {
          sequence.step(rows, max_rows, random);
        }
        break;
      case 0: sequence.trim(std::max(0, length - random.below(80)), longest[at]); break;
      case 1: sequence.trim(random.between(-1, length + 1), longest[at]); break;
      case 2:  // a step that fails after it made room
        if (length + rows <= context) sequence.state.reserve(rows), sequence.trim(length, longest[at]);
        break;
      case 3:
        if (sequences.size() < 5) {
          longest.push_back(longest[at]);
          sequences.push_back(Sequence(sequence));
        }
        break;
      case 4: {
        const std::string saved = sequence.state.save();
        sequence.state = KvState::restore(layout, saved);
        CHECK(sequence.state.save() == saved);
        break;
      }
      case 5:
        if (sequences.size() > 1) {
          sequences.erase(sequences.begin() + static_cast<std::ptrdiff_t>(at));
          longest.erase(longest.begin() + static_cast<std::ptrdiff_t>(at));
        }
        break;
    }
    for (size_t s = 0; s < sequences.size(); s++) {
      longest[s] = std::max(longest[s], sequences[s].state.length());
      if (i % 4 == 0) sequences[s].check(max_rows);
    }
  }
}

// A copy costs nothing until it is written to, and then one page a layer.
void check_sharing() {
  Random random(7);
  const auto layout = small_layout(1000);
  Sequence first{KvState(layout), {}};
  first.step(200, 256, random);
  Sequence second = first;
  for (int layer = 0; layer < 4; layer++) CHECK(first.state.page(layer, 150) == second.state.page(layer, 150));
  second.step(1, 256, random);
  for (int layer = 0; layer < 4; layer++) {
    CHECK(first.state.page(layer, 150) == second.state.page(layer, 150));
    CHECK(first.state.page(layer, 199) != second.state.page(layer, 199));
  }
  first.check(256);
  second.check(256);
}

void check_limits() {
  const auto layout = small_layout(100);
  KvState state(layout);
  CHECK_THROWS(std::length_error, state.reserve(101));
  CHECK_THROWS(std::length_error, state.reserve(-1));
  CHECK_THROWS(std::length_error, state.reserve(std::numeric_limits<int>::max()));
  state.reserve(100);
  state.advance(100);
  CHECK_THROWS(std::length_error, state.reserve(1));
  CHECK(KvState::price(*layout, 0, 0) == 0);
  CHECK_THROWS(std::invalid_argument, KvState::price(*layout, -1, 0));
  CHECK_THROWS(std::invalid_argument, KvState::price(*layout, 0, -1));
  CHECK(KvState::price(*layout, std::numeric_limits<int>::max(), std::numeric_limits<int>::max()) > 0);
  for (int positions = 1; positions < 500; positions++) CHECK(KvState::price(*layout, positions, 7) >= KvState::price(*layout, positions - 1, 7));
}

// Bytes that were not saved by a state of this shape are refused, or make a state that works like any other.
void try_restore(const std::shared_ptr<KvLayout>& layout, const std::string& bytes) {
  try {
    KvState state = KvState::restore(layout, bytes);
    CHECK(state.length() >= 0 && state.length() <= layout->context);
    const int rows = std::min(3, layout->context - state.length());
    state.reserve(rows);
    for (int layer = 0; layer < static_cast<int>(layout->layers.size()); layer++)
      for (int i = 0; i < rows; i++) write(state, layer, state.length() + i, 1);
    state.advance(rows);
    state.trim(state.length());
  } catch (const std::invalid_argument&) {
  }
}

// 70 positions are two pages of 4096 bytes a layer, and the next query of the windowed layer sees only the second. Each layer has five
// numbers, of which the last two are the first page and how many there are, and then its pages.
void check_missing_pages(const std::shared_ptr<KvLayout>& layout, const std::string& saved) {
  const auto with_pages = [&](size_t layer, int32_t first, int32_t count) {
    std::string bytes = saved;
    const size_t numbers = 16 + layer * (20 + 2 * 4096) + 12, pages = numbers + 8;
    std::memcpy(&bytes[numbers], &first, 4);
    std::memcpy(&bytes[numbers + 4], &count, 4);
    bytes.erase(pages, 2 * 4096);
    bytes.insert(pages, static_cast<size_t>(std::max(count, 0)) * 4096, '\1');
    return bytes;
  };
  for (size_t layer : {0, 1}) {
    CHECK(KvState::restore(layout, with_pages(layer, 0, 2)).length() == 70);
    for (int32_t first : {-1, -2, 2, 3}) CHECK_THROWS(std::invalid_argument, KvState::restore(layout, with_pages(layer, first, 2 - first)));
    CHECK_THROWS(std::invalid_argument, KvState::restore(layout, with_pages(layer, 0, 3)));
  }
  CHECK(KvState::restore(layout, with_pages(0, 1, 1)).length() == 70);
  CHECK_THROWS(std::invalid_argument, KvState::restore(layout, with_pages(1, 1, 1)));
}

void check_damage() {
  Random random(8);
  auto layout = std::make_shared<KvLayout>();
  layout->layers = {{1, 1, 1, 3, 1.0f}, {1, 1, 2, 0, 1.0f}};
  layout->context = std::numeric_limits<int>::max();  // so that nothing but the pages bounds a length
  Sequence sequence{KvState(layout), {}};
  sequence.step(70, 70, random);
  const std::string saved = sequence.state.save();
  CHECK(KvState::restore(layout, saved).length() == 70);
  for (size_t i = 0; i < saved.size(); i++)
    for (int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = saved;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      try_restore(layout, bytes);
      if (i > 512) break;  // of the pages' content one is enough
    }
  for (size_t size = 0; size < saved.size(); size++) CHECK_THROWS(std::invalid_argument, KvState::restore(layout, std::string_view(saved).substr(0, size)));
  CHECK_THROWS(std::invalid_argument, KvState::restore(layout, saved + '\0'));
  for (int i = 0; i < 3000; i++) {  // the header's numbers, at will
    std::string bytes = saved;
    for (int many = random.between(1, 3); many > 0; many--) {
      const int32_t value = random.below(3) ? random.between(-2, 200) : static_cast<int32_t>(random.bits());
      std::memcpy(&bytes[8 + 4 * static_cast<size_t>(random.below(7))], &value, 4);
    }
    try_restore(layout, bytes);
  }
  CHECK_THROWS(std::invalid_argument, KvState::restore(small_layout(1000), saved));
  check_missing_pages(layout, saved);
}

}  // namespace

int main() {
  for (uint32_t seed = 0; seed < 40; seed++) check_history(seed);
  check_sharing();
  check_limits();
  check_damage();
}
