// Adapters: what they add, by its definition; the same bits whatever shares a step; and nothing accepted that does not fit.
#include <limits>
#include <stdexcept>

#include "small_program.h"

using namespace gemlet;

namespace {

// Matrices of an adapter for some matrices of a program, and memory for them.
struct OwnAdapter {
  std::vector<std::unique_ptr<Matrix>> matrices;
  std::vector<std::pair<int, LowRank>> parts;

  void add(const ProgramSpec& spec, int matrix, Format format, int rank, float scale, Random& random) {
    const Weight& w = spec.matrices[static_cast<size_t>(matrix)];
    matrices.push_back(std::make_unique<Matrix>(format, rank, w.columns, Kind::random, random));
    matrices.push_back(std::make_unique<Matrix>(format, w.rows, rank, Kind::random, random));
    parts.push_back({matrix, {matrices[matrices.size() - 2]->weight(), matrices.back()->weight(), scale}});
  }
};

// Every product of the small model says what its input was made of.
struct AdaptedModel : SmallModel {
  std::vector<int> products;  // their matrices

  explicit AdaptedModel(Random& random) : SmallModel(random) {
    for (Instruction& in : spec.instructions) {
      if (in.op != Op::linear || in.rows != Rows::all) continue;
      in.b = is_dense(spec.matrices[static_cast<size_t>(in.weight)].format) ? in.a : 1;
      products.push_back(in.weight);
    }
  }
  OwnAdapter adapter(Random& random, int rank) const {
    OwnAdapter made;
    for (int matrix : products)
      if (random.below(4)) made.add(spec, matrix, kDenseFormats[random.below(3)], rank, random.uniform(-0.3f, 0.3f), random);
    if (made.parts.empty()) made.add(spec, products[0], Format::f32, rank, 0.1f, random);
    return made;
  }
};

// One product of rows with a dense matrix, the rows being those of the embedding: `columns` wide, so that sums are cut into chunks.
struct OneProduct {
  static constexpr int kVocabulary = 20, kRows = 50;
  Matrix table, matrix;
  ProgramSpec spec;
  std::shared_ptr<KvLayout> layout = std::make_shared<KvLayout>();

  OneProduct(int columns, int rows, Random& random)
      : table(Format::f32, kVocabulary, columns, Kind::random, random), matrix(Format::f32, rows, columns, Kind::random, random) {
    layout->layers = {{1, 1, 16, 0, 1.0f}};
    layout->context = 400;
    spec.max_rows = 120;
    spec.vocabulary = kVocabulary;
    spec.hidden = rows;
    spec.buffers = {columns, rows, columns};
    spec.matrices = {table.weight(), matrix.weight()};
    spec.instructions = {{Op::embed, Rows::all, 0, 0, 0, 0, 0, columns, 0, 1.0f},
                         {Op::linear, Rows::all, 1, 0, 0, 1, 0, rows, 0, 0},
                         {Op::select, Rows::hidden, kHiddenOut, 1, 0, 0, 0, rows, 0, 0},
                         {Op::select, Rows::logits, 2, 0, 0, 0, 0, columns, 0, 0},
                         {Op::linear, Rows::logits, kLogitsOut, 2, 0, 0, 0, kVocabulary, 0, 0}};
  }
};

// Each element against a sum in double: the chunks, the panels beyond the end, ranks that fill no panel.
void check_definition(const Kernels& k, Random& random) {
  const int shapes[][3] = {{1000, 33, 1}, {1024, 16, 16}, {2500, 70, 5}, {40, 200, 40}};
  for (const auto& [columns, rows, rank] : shapes)
    for (Format format : kDenseFormats) {
      OneProduct one(columns, rows, random);
      Program program(one.spec, one.layout, k, 2);
      OwnAdapter own;
      own.add(one.spec, 1, format, rank, 0.3f, random);
      const Adapter adapter = program.make_adapter(own.parts);
      std::vector<int32_t> ids(OneProduct::kRows);
      for (int32_t& id : ids) id = random.below(OneProduct::kVocabulary);
      KvState state(one.layout), plain_state(one.layout);
      OwnStep step, plain;
      step.feed(state, ids.data(), OneProduct::kRows);
      plain.feed(plain_state, ids.data(), OneProduct::kRows);
      step.want_all();
      plain.want_all();
      Step run = step.step(program);
      run.adapters = {&adapter};
      program.run(run);
      program.run(plain.step(program));
      const int64_t stride = program.hidden_stride();
      for (int r = 0; r < OneProduct::kRows; r += 7)
        for (int o = 0; o < rows; o++) {
          double sum = 0, size = 0;
          for (int j = 0; j < rank; j++) {
            double inner = 0, inner_size = 0;
            for (int c = 0; c < columns; c++) {
              const double term = one.table.value(ids[static_cast<size_t>(r)], c) * own.matrices[0]->value(j, c);
              inner += term;
              inner_size += std::fabs(term);
            }
            sum += 0.3f * inner * own.matrices[1]->value(o, j);
            size += std::fabs(0.3f * inner_size * own.matrices[1]->value(o, j));
          }
          const size_t at = static_cast<size_t>(r * stride + o);
          const double got = step.hidden[at], expected = plain.hidden[at] + sum;
          // Every addition and product of the longest chain rounds once, each by half a unit of what was added up at most.
          const double allowed = kUnit * ((columns + 8) * size + rank * (std::fabs(plain.hidden[at]) + size));
          CHECK_WITH(std::fabs(got - expected) <= allowed, k.name, columns, rank, r, o, got, expected, allowed);
        }
      CHECK(!same_bits(step.hidden.data(), plain.hidden.data(), static_cast<size_t>(rows)));
    }
}

struct Sequence {
  std::vector<int32_t> ids;
  const Adapter* adapter;
  std::vector<float> logits, hidden;  // of every position
};

void take(Sequence& to, const OwnStep& step, int first, int rows, const Program& program) {
  const auto logits = step.logits.begin() + first * program.logits_stride(), hidden = step.hidden.begin() + first * program.hidden_stride();
  to.logits.insert(to.logits.end(), logits, logits + rows * program.logits_stride());
  to.hidden.insert(to.hidden.end(), hidden, hidden + rows * program.hidden_stride());
}

// Some of the sequences go on in one step, in this order; those that have ended are left out.
void advance(Program& program, std::vector<Sequence>& sequences, std::vector<KvState>& states, const std::vector<int>& rows) {
  OwnStep step;
  std::vector<const Adapter*> adapters;
  std::vector<std::pair<size_t, int>> parts;
  for (size_t s = 0; s < sequences.size(); s++) {
    const int count = std::min(rows[s], static_cast<int>(sequences[s].ids.size()) - states[s].length());
    if (count == 0) continue;
    step.feed(states[s], sequences[s].ids.data() + states[s].length(), count);
    adapters.push_back(sequences[s].adapter);
    parts.push_back({s, count});
  }
  if (parts.empty()) return;
  step.want_all();
  Step run = step.step(program);
  run.adapters = adapters;
  program.run(run);
  int first = 0;
  for (const auto& [s, count] : parts) {
    take(sequences[s], step, first, count, program);
    first += count;
  }
}

// Sequences of two adapters and of none, alone on one thread and then in random company on several.
void check_same_bits(const Kernels& k, Random& random) {
  const AdaptedModel model(random);
  const OwnAdapter own_p = model.adapter(random, 4), own_q = model.adapter(random, 19);
  std::vector<std::vector<int32_t>> ids;
  for (int length : {150, 60, 90, 200, 120, 70}) {
    ids.emplace_back(static_cast<size_t>(length));
    for (int32_t& id : ids.back()) id = random.below(SmallModel::kVocabulary);
  }
  std::vector<Sequence> expected;
  for (int threads = 0; threads <= 3; threads++) {
    Program program(model.spec, model.layout, k, std::max(1, threads));
    const Adapter p = program.make_adapter(own_p.parts), q = program.make_adapter(own_q.parts);
    const Adapter* of[] = {nullptr, &p, &p, &q, nullptr, &q};
    std::vector<Sequence> sequences;
    for (size_t s = 0; s < ids.size(); s++) sequences.push_back({ids[s], of[s], {}, {}});
    std::vector<KvState> states(ids.size(), KvState(model.layout));
    if (threads == 0) {
      for (size_t s = 0; s < ids.size(); s++)
        while (states[s].length() < static_cast<int>(ids[s].size())) {
          std::vector<int> rows(ids.size(), 0);
          rows[s] = s % 2 ? 40 : 1;
          advance(program, sequences, states, rows);
        }
      expected = sequences;
      // A state without an adapter has the bits of a step that knows nothing of adapters.
      KvState plain(model.layout);
      OwnStep step;
      step.feed(plain, ids[0].data(), 30);
      step.want_all();
      program.run(step.step(program));
      CHECK(same_bits(step.logits.data(), expected[0].logits.data(), step.logits.size()));
      continue;
    }
    for (bool left = true; left;) {
      std::vector<int> rows;
      left = false;
      const int most = random.below(2) ? 3 : 6;
      for (size_t s = 0; s < ids.size(); s++) {
        rows.push_back(random.between(0, most));
        left |= states[s].length() < static_cast<int>(ids[s].size());
      }
      advance(program, sequences, states, rows);
    }
    for (size_t s = 0; s < ids.size(); s++) {
      const Sequence &a = sequences[s], &b = expected[s];
      CHECK_WITH(a.logits.size() == b.logits.size() && same_bits(a.logits.data(), b.logits.data(), a.logits.size()), k.name, threads, s);
      CHECK_WITH(a.hidden.size() == b.hidden.size() && same_bits(a.hidden.data(), b.hidden.data(), a.hidden.size()), k.name, threads, s);
    }
  }
}

// The run of products that an adapter's product belongs to must not have written what it reads.
void check_input_of_the_same_run(const Kernels& k, Random& random) {
  OneProduct one(48, 48, random);
  one.spec.instructions.insert(one.spec.instructions.begin() + 2, {Op::linear, Rows::all, 2, 1, 1, 1, 0, 48, 0, 0});
  one.spec.instructions[3].a = 2;
  Program chained(one.spec, one.layout, k, 3);
  OwnAdapter own;
  own.add(one.spec, 1, Format::f32, 8, 0.5f, random);
  const Adapter adapter = chained.make_adapter(own.parts);
  std::vector<float> first;
  for (int repeat = 0; repeat < 20; repeat++) {
    const std::vector<int32_t> ids{3, 1, 4, 1, 5};
    KvState state(one.layout);
    OwnStep step;
    step.feed(state, ids.data(), 5);
    step.want_all();
    Step run = step.step(chained);
    run.adapters = {&adapter};
    chained.run(run);
    if (repeat == 0) first = step.hidden;
    CHECK(same_bits(first.data(), step.hidden.data(), first.size()));
  }
}

void check_refusals(const Kernels& k, Random& random) {
  AdaptedModel model(random);
  Program program(model.spec, model.layout, k, 1);
  OwnAdapter own;
  own.add(model.spec, model.products[0], Format::f32, 4, 1.0f, random);
  (void)program.make_adapter(own.parts);
  const auto refused = [&](auto change) {
    auto parts = own.parts;
    change(parts);
    CHECK_THROWS(std::invalid_argument, program.make_adapter(parts));
  };
  const int big = std::numeric_limits<int>::max();
  for (int matrix : {-1, 99, big, 0}) refused([&](auto& p) { p[0].first = matrix; });  // 0: the embedding, and the head
  for (int side : {0, -1, kMaxRank + 1, big}) {
    refused([&](auto& p) { p[0].second.a.rows = side; });
    refused([&](auto& p) { p[0].second.a.columns = side; });
    refused([&](auto& p) { p[0].second.b.rows = side; });
    refused([&](auto& p) { p[0].second.b.columns = side; });
  }
  refused([&](auto& p) { p[0].second.a.format = Format::i8; });
  refused([&](auto& p) { p[0].second.b.format = Format::i4m; });
  for (float scale : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) refused([&](auto& p) { p[0].second.scale = scale; });
  refused([&](auto& p) { p.push_back(p[0]); });
  for (int buffer : {-1, 99}) {  // nothing wide enough to read
    AdaptedModel other(random);
    for (Instruction& in : other.spec.instructions)
      if (in.op == Op::linear) in.b = buffer;
    Program without(other.spec, other.layout, k, 1);
    CHECK_THROWS(std::invalid_argument, without.make_adapter(own.parts));
  }
  const Adapter adapter = program.make_adapter(own.parts);
  Program other(model.spec, std::make_shared<KvLayout>(*model.layout), k, 1);
  const Adapter foreign = other.make_adapter(own.parts);
  for (const std::vector<const Adapter*>& adapters : {std::vector<const Adapter*>{&foreign}, {&adapter, &adapter}}) {
    KvState state(model.layout);
    const int32_t id = 1;
    OwnStep step;
    step.feed(state, &id, 1);
    Step run = step.step(program);
    run.adapters = adapters;
    CHECK_THROWS(std::invalid_argument, program.run(run));
    CHECK(state.length() == 0);
  }
}

}  // namespace

int main() {
  Random random(11);
  for (const Kernels* k : all_kernels()) {
    check_definition(*k, random);
    check_same_bits(*k, random);
    check_input_of_the_same_run(*k, random);
  }
  check_refusals(*find_kernels("auto"), random);
}
