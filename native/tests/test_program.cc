// Whole programs: the same bits whatever shares a step, a product straight into an output, and nothing accepted that does not fit.
#include <functional>
#include <limits>
#include <stdexcept>

#include "small_program.h"

using namespace gemlet;

namespace {

struct Answers {
  std::vector<float> logits, hidden;  // of every position
};

void take(Answers& to, const OwnStep& step, int first, int rows, const Program& program) {
  const auto logits = step.logits.begin() + first * program.logits_stride(), hidden = step.hidden.begin() + first * program.hidden_stride();
  to.logits.insert(to.logits.end(), logits, logits + rows * program.logits_stride());
  to.hidden.insert(to.hidden.end(), hidden, hidden + rows * program.hidden_stride());
}

Answers run_alone(Program& program, std::shared_ptr<const KvLayout> layout, const std::vector<int32_t>& ids, int chunk) {
  KvState state(std::move(layout));
  Answers answers;
  for (int start = 0; start < static_cast<int>(ids.size()); start += chunk) {
    const int rows = std::min(chunk, static_cast<int>(ids.size()) - start);
    OwnStep step;
    step.feed(state, ids.data() + start, rows);
    step.want_all();
    program.run(step.step(program));
    take(answers, step, 0, rows, program);
  }
  return answers;
}

void check_equal(const Answers& a, const Answers& b, const char* name, int which) {
  CHECK_WITH(a.logits.size() == b.logits.size() && same_bits(a.logits.data(), b.logits.data(), a.logits.size()), name, which);
  CHECK_WITH(a.hidden.size() == b.hidden.size() && same_bits(a.hidden.data(), b.hidden.data(), a.hidden.size()), name, which);
}

std::vector<int32_t> random_ids(Random& random, int count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = random.below(SmallModel::kVocabulary);
  return ids;
}

// Three sequences of different lengths, advanced by random pieces in random company and order, some of them cut back and fed again.
void check_same_bits(const Kernels& k, Random& random) {
  const SmallModel model(random);
  const std::vector<std::vector<int32_t>> ids{random_ids(random, 1150), random_ids(random, 90), random_ids(random, 600)};
  Program quiet(model.spec, model.layout, k, 1);
  std::vector<Answers> expected;
  for (const auto& sequence : ids) expected.push_back(run_alone(quiet, model.layout, sequence, 32));
  for (float x : expected[0].logits) CHECK(std::isfinite(x));
  check_equal(run_alone(quiet, model.layout, ids[1], 1), expected[1], k.name, -1);
  for (int threads = 1; threads <= 3; threads++) {
    Program program(model.spec, model.layout, k, threads);
    std::vector<KvState> states(ids.size(), KvState(model.layout));
    std::vector<Answers> answers(ids.size());
    for (bool left = true; left;) {
      OwnStep step;
      std::vector<std::pair<size_t, int>> parts;
      left = false;
      const int most = random.below(2) ? 4 : 13;  // few rows are shared out by partitions, many are not
      for (size_t s = 0; s < ids.size(); s++) {
        const int rows = std::min(static_cast<int>(ids[s].size()) - states[s].length(), random.between(0, most));
        left |= states[s].length() < static_cast<int>(ids[s].size());
        if (rows == 0) continue;
        step.feed(states[s], ids[s].data() + states[s].length(), rows);
        parts.push_back({s, rows});
      }
      if (parts.empty()) continue;
      step.want_all();
      program.run(step.step(program));
      int first = 0;
      for (const auto& [s, rows] : parts) {
        take(answers[s], step, first, rows, program);
        first += rows;
        if (random.below(8)) continue;
        const int back = std::min(states[s].length(), random.between(1, 20));
        states[s].trim(states[s].length() - back);
        answers[s].logits.resize(answers[s].logits.size() - static_cast<size_t>(back * program.logits_stride()));
        answers[s].hidden.resize(answers[s].hidden.size() - static_cast<size_t>(back * program.hidden_stride()));
      }
    }
    for (size_t s = 0; s < ids.size(); s++) check_equal(answers[s], expected[s], k.name, static_cast<int>(s));
  }
}

// Products may go to both outputs, from any rows, and rows may be asked for twice.
void check_outputs(const Kernels& k, Random& random) {
  SmallModel model(random);
  ProgramSpec& spec = model.spec;
  spec.hidden = SmallModel::kVocabulary;
  spec.buffers = {32, 32};
  spec.instructions = {{Op::embed, Rows::all, 0, 0, 0, 0, 0, 32, 0, 1.5f}};
  for (Rows rows : {Rows::logits, Rows::hidden}) {
    spec.instructions.push_back({Op::select, rows, 1, 0, 0, 0, 0, 32, 0, 0});
    spec.instructions.push_back({Op::quantise, rows, 1, 1, 0, 0, 0, 32, 0, 0});
    spec.instructions.push_back({Op::linear, rows, rows == Rows::logits ? kLogitsOut : kHiddenOut, 1, 0, 0, 0, SmallModel::kVocabulary, 0, 0});
  }
  Program program(spec, model.layout, k, 2);
  KvState state(model.layout);
  const std::vector<int32_t> ids = random_ids(random, 9);
  OwnStep step;
  step.feed(state, ids.data(), 9);
  step.logit_rows = {8, 0, 3};
  step.hidden_rows = {3, 8, 0, 0};
  program.run(step.step(program));
  const size_t stride = static_cast<size_t>(program.logits_stride());
  const int pairs[][2] = {{0, 1}, {1, 2}, {1, 3}, {2, 0}};
  for (const auto& pair : pairs) CHECK(same_bits(&step.logits[static_cast<size_t>(pair[0]) * stride], &step.hidden[static_cast<size_t>(pair[1]) * stride], SmallModel::kVocabulary));
  CHECK(!same_bits(&step.logits[0], &step.logits[stride], SmallModel::kVocabulary));
}

using Change = std::function<void(ProgramSpec&, KvLayout&)>;

std::vector<Change> impossible_programs() {
  const int big = std::numeric_limits<int>::max();
  std::vector<Change> changes;
  for (int rows : {0, -1, 4097, big}) changes.push_back([=](ProgramSpec& s, KvLayout&) { s.max_rows = rows; });
  for (int width : {0, -1, big}) {
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.vocabulary = width; });
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.hidden = width; });
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.buffers.back() = width; });
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.quantised.back().columns = width; });
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.matrices.back().rows = width; });
    changes.push_back([=](ProgramSpec& s, KvLayout&) { s.matrices.back().columns = width; });
    changes.push_back([=](ProgramSpec&, KvLayout& l) { l.layers[0].heads = width; });
    changes.push_back([=](ProgramSpec&, KvLayout& l) { l.layers[0].kv_heads = width; });
    changes.push_back([=](ProgramSpec&, KvLayout& l) { l.layers[0].head_dim = width; });
  }
  changes.push_back([](ProgramSpec& s, KvLayout&) { s.vocabulary = 38; });
  changes.push_back([](ProgramSpec& s, KvLayout&) { s.quantised[0].columns = 33; });
  changes.push_back([](ProgramSpec& s, KvLayout&) { s.matrices[0].columns = 31; });
  changes.push_back([](ProgramSpec& s, KvLayout&) { s.vectors[0].clear(); });
  changes.push_back([](ProgramSpec& s, KvLayout&) { s.rotations[0].push_back(1); });
  changes.push_back([](ProgramSpec&, KvLayout& l) { l.layers[0].kv_heads = 3; });
  changes.push_back([](ProgramSpec&, KvLayout& l) { l.layers[0].window = -1; });
  changes.push_back([](ProgramSpec&, KvLayout& l) { l.layers.pop_back(); });
  changes.push_back([](ProgramSpec&, KvLayout& l) { l.context = 0; });
  return changes;
}

// Of the instruction's own fields: other buffers, rows and widths than those that fit.
std::vector<Change> impossible_instructions(const ProgramSpec& spec) {
  std::vector<Change> changes;
  const auto change = [&](size_t i, std::function<void(Instruction&)> f) { changes.push_back([=](ProgramSpec& s, KvLayout&) { f(s.instructions[i]); }); };
  for (size_t i = 0; i < spec.instructions.size(); i++) {
    const Op op = spec.instructions[i].op;
    for (int bad : {-3, 99, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) {
      if (op != Op::store_key_value) change(i, [=](Instruction& in) { in.out = bad; });
      if (op != Op::embed) change(i, [=](Instruction& in) { in.a = bad; });
      if (op == Op::add || op == Op::gelu_gate || op == Op::silu_gate || op == Op::store_key_value) change(i, [=](Instruction& in) { in.b = bad; });
      if (op == Op::embed || op == Op::norm || op == Op::add_bias || op == Op::rope || op == Op::linear) change(i, [=](Instruction& in) { in.weight = bad; });
      if (op == Op::attend || op == Op::store_key_value) change(i, [=](Instruction& in) { in.layer = bad; });
      if (op == Op::norm || op == Op::rope) change(i, [=](Instruction& in) { in.group = bad; });
      if (op == Op::add || op == Op::add_bias || op == Op::norm || op == Op::rope || op == Op::select) change(i, [=](Instruction& in) { in.width = bad; });
    }
    if (op == Op::add || op == Op::add_bias || op == Op::norm || op == Op::rope || op == Op::select) change(i, [](Instruction& in) { in.width = 0; });
    if (op != Op::embed) change(i, [](Instruction& in) { in.a = kLogitsOut; });
    if (op == Op::embed || op == Op::rope || op == Op::attend || op == Op::store_key_value) change(i, [](Instruction& in) { in.rows = Rows::logits; });
    if (op == Op::rope) change(i, [](Instruction& in) { in.out = in.a; });
    if (op == Op::select) change(i, [](Instruction& in) { in.rows = Rows::all; });
    if (spec.instructions[i].out < 0)  // outputs have rows of their own
      for (Rows rows : {Rows::all, Rows::logits, Rows::hidden})
        if (rows != spec.instructions[i].rows) change(i, [=](Instruction& in) { in.rows = rows; });
    for (int out : {kLogitsOut, kHiddenOut})
      if (op != Op::store_key_value && op != Op::quantise && spec.instructions[i].rows == Rows::all) change(i, [=](Instruction& in) { in.out = out; });
    change(i, [](Instruction& in) { in.op = static_cast<Op>(kOps); });
  }
  return changes;
}

void check_impossible_programs(const Kernels& k, Random& random) {
  const SmallModel model(random);
  std::vector<Change> changes = impossible_programs();
  const std::vector<Change> more = impossible_instructions(model.spec);
  changes.insert(changes.end(), more.begin(), more.end());
  for (size_t i = 0; i < changes.size(); i++) {
    ProgramSpec spec = model.spec;
    auto layout = std::make_shared<KvLayout>(*model.layout);
    changes[i](spec, *layout);
    bool refused = false;
    try {
      Program(std::move(spec), layout, k, 1);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK_WITH(refused, i, i - impossible_programs().size());
  }
}

// Instructions changed at random are refused, or run without touching memory that is not theirs.
void check_random_programs(const Kernels& k, Random& random) {
  const SmallModel model(random);
  int ran = 0;
  for (int i = 0; i < 1500; i++) {
    ProgramSpec spec = model.spec;
    for (int many = random.between(1, 3); many > 0; many--) {
      Instruction& in = spec.instructions[static_cast<size_t>(random.below(static_cast<int>(spec.instructions.size())))];
      int* fields[] = {&in.out, &in.a, &in.b, &in.weight, &in.layer, &in.width, &in.group};
      switch (random.below(10)) {
        case 0: in.op = static_cast<Op>(random.below(kOps)); break;
        case 1: in.rows = static_cast<Rows>(random.below(3)); break;
        case 2: std::swap(in, spec.instructions[static_cast<size_t>(random.below(static_cast<int>(spec.instructions.size())))]); break;
        default: *fields[random.below(7)] = random.between(-3, 66);
      }
    }
    try {
      Program program(std::move(spec), model.layout, k, 1);
      KvState state(model.layout);
      const std::vector<int32_t> ids = random_ids(random, 7);
      OwnStep step;
      step.feed(state, ids.data(), 7);
      step.logit_rows = {6};
      step.hidden_rows = {1, 2};
      program.run(step.step(program));
      ran++;
    } catch (const std::invalid_argument&) {
    }
  }
  CHECK_WITH(ran > 50 && ran < 1450, ran);
}

void check_impossible_steps(const Kernels& k, Random& random) {
  const SmallModel model(random), other(random);
  Program program(model.spec, model.layout, k, 2);
  KvState state(model.layout), second(model.layout), stranger(other.layout);
  const std::vector<int32_t> ids = random_ids(random, 6);
  const auto valid = [&] {
    OwnStep step;
    step.feed(state, ids.data(), 4);
    step.feed(second, ids.data(), 2);
    step.logit_rows = {5, 0};
    step.hidden_rows = {1};
    return step;
  };
  const std::vector<std::function<void(OwnStep&)>> changes{
      [](OwnStep& s) { s.ids[0] = -1; },
      [](OwnStep& s) { s.ids[5] = SmallModel::kVocabulary; },
      [](OwnStep& s) { s.ids[5] = std::numeric_limits<int>::max(); },
      [](OwnStep& s) { s.positions[0] = 1; },
      [](OwnStep& s) { s.positions[4] = 4; },
      [](OwnStep& s) { s.positions[5] = -1; },
      [](OwnStep& s) { s.logit_rows[0] = 6; },
      [](OwnStep& s) { s.logit_rows[1] = -1; },
      [](OwnStep& s) { s.hidden_rows[0] = 1 << 30; },
      [](OwnStep& s) { s.logit_rows.assign(SmallModel::kMaxRows + 1, 0); },
      [](OwnStep& s) { s.hidden_rows.assign(SmallModel::kMaxRows + 1, 0); },
      [](OwnStep& s) { s.state_rows = {4, 3}; },
      [](OwnStep& s) { s.state_rows = {3, 2}; },
      [](OwnStep& s) { s.state_rows = {6, 0}; },
      [](OwnStep& s) { s.state_rows = {7, -1}; },
      [](OwnStep& s) { s.state_rows = {std::numeric_limits<int>::max(), 2}; },
      [](OwnStep& s) { s.state_rows = {6}; },
      [](OwnStep& s) { s.states.pop_back(), s.state_rows.pop_back(); },
      [](OwnStep& s) { s.states.clear(), s.state_rows.clear(); },
      [](OwnStep& s) { s.states[1] = s.states[0]; },
      [](OwnStep& s) { s.states[1] = nullptr; },
      [&](OwnStep& s) { s.states[1] = &stranger; },
      [](OwnStep& s) { s.ids.clear(), s.positions.clear(); },
      [](OwnStep& s) { s.ids.resize(SmallModel::kMaxRows + 1), s.positions.resize(SmallModel::kMaxRows + 1); },
  };
  for (size_t i = 0; i < changes.size(); i++) {
    OwnStep step = valid();
    changes[i](step);
    bool refused = false;
    try {
      program.run(step.step(program));
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK_WITH(refused && state.length() == 0 && second.length() == 0, i);
  }
  OwnStep step = valid();
  program.run(step.step(program));
  CHECK(state.length() == 4 && second.length() == 2);
}

void check_context(const Kernels& k, Random& random) {
  SmallModel model(random);
  model.layout->context = 10;
  Program program(model.spec, model.layout, k, 1);
  KvState state(model.layout), second(model.layout);
  const std::vector<int32_t> ids = random_ids(random, 11);
  OwnStep step;
  step.feed(second, ids.data(), 2);
  step.feed(state, ids.data(), 11);
  CHECK_THROWS(std::length_error, program.run(step.step(program)));
  CHECK(state.length() == 0 && second.length() == 0);
}

}  // namespace

int main() {
  Random random(9);
  for (const Kernels* k : all_kernels()) {
    check_same_bits(*k, random);
    check_outputs(*k, random);
    check_impossible_steps(*k, random);
    check_context(*k, random);
    check_random_programs(*k, random);
  }
  check_impossible_programs(*find_kernels("auto"), random);
  CHECK(find_kernels("avx1024") == nullptr && find_kernels("") == nullptr && find_kernels("auto") != nullptr);
}
