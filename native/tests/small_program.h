// A small program with every operation in it, and steps to run it with.
#pragma once
#include <memory>

#include "gemlet/program.h"
#include "matrices.h"

struct SmallModel {
  static constexpr int kVocabulary = 37, kHidden = 32, kMaxRows = 40, kContext = 1200;

  gemlet::ProgramSpec spec;
  std::shared_ptr<gemlet::KvLayout> layout = std::make_shared<gemlet::KvLayout>();
  std::vector<std::unique_ptr<Matrix>> matrices;

  // Twelve floats buffers, two quantised ones; two layers, one with a window, that differ in heads.
  explicit SmallModel(Random& random) {
    using namespace gemlet;
    layout->layers = {{4, 2, 16, 70, 0.25f}, {2, 1, 8, 0, 0.35f}};
    layout->context = kContext;
    spec.max_rows = kMaxRows;
    spec.vocabulary = kVocabulary;
    spec.hidden = kHidden;
    spec.buffers = {32, 32, 64, 32, 32, 64, 32, 64, 32, 32, 32};
    spec.quantised = {{32, false}, {32, true}};
    spec.vectors = {random.normals(32), random.normals(16), random.normals(8)};
    spec.rotations = {random.normals(8), random.normals(4)};
    add_matrix(Format::i8, kVocabulary, 32, random);
    spec.instructions.push_back({Op::embed, Rows::all, 0, 0, 0, 0, 0, 32, 0, 1.5f});
    for (int layer = 0; layer < 2; layer++) add_layer(layer, random);
    spec.instructions.push_back({Op::select, Rows::hidden, 9, 0, 0, 0, 0, 32, 0, 0});
    spec.instructions.push_back({Op::norm, Rows::hidden, kHiddenOut, 9, 0, 0, 0, 32, 32, 1e-6f});
    spec.instructions.push_back({Op::select, Rows::logits, 9, 0, 0, 0, 0, 32, 0, 0});
    spec.instructions.push_back({Op::norm, Rows::logits, 10, 9, 0, 0, 0, 32, 32, 1e-6f});
    spec.instructions.push_back({Op::quantise, Rows::logits, 1, 10, 0, 0, 0, 32, 0, 0});
    spec.instructions.push_back({Op::linear, Rows::logits, kLogitsOut, 1, 0, 0, 0, kVocabulary, 0, 0});
  }

 private:
  int add_matrix(gemlet::Format format, int rows, int columns, Random& random) {
    matrices.push_back(std::make_unique<Matrix>(format, rows, columns, Kind::random, random));
    spec.matrices.push_back(matrices.back()->weight());
    return static_cast<int>(spec.matrices.size()) - 1;
  }

  void add_layer(int layer, Random& random) {
    using namespace gemlet;
    const AttendShape& s = layout->layers[static_cast<size_t>(layer)];
    const int queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
    auto& list = spec.instructions;
    list.push_back({Op::norm, Rows::all, 1, 0, 0, 0, 0, 32, 32, 1e-6f});
    list.push_back({Op::quantise, Rows::all, 0, 1, 0, 0, 0, 32, 0, 0});
    list.push_back({Op::linear, Rows::all, 2, 0, 0, add_matrix(Format::i4, queries, 32, random), 0, queries, 0, 0});
    list.push_back({Op::linear, Rows::all, 3, 0, 0, add_matrix(Format::i8h, keys, 32, random), 0, keys, 0, 0});
    list.push_back({Op::linear, Rows::all, 4, 0, 0, add_matrix(Format::i4m, keys, 32, random), 0, keys, 0, 0});
    list.push_back({Op::norm, Rows::all, 7, 2, 0, 1 + layer, 0, queries, s.head_dim, 1e-6f});
    list.push_back({Op::rope, Rows::all, 5, 7, 0, layer, 0, queries, s.head_dim, 0});
    list.push_back({Op::rope, Rows::all, 6, 3, 0, layer, 0, keys, s.head_dim, 0});
    list.push_back({Op::store_key_value, Rows::all, 0, 6, 4, 0, layer, keys, 0, 0});
    list.push_back({Op::attend, Rows::all, 7, 5, 0, 0, layer, queries, 0, 0});
    list.push_back({Op::linear, Rows::all, 8, 7, 0, add_matrix(Format::bf16, 32, queries, random), 0, 32, 0, 0});
    list.push_back({Op::gelu_gate, Rows::all, 1, 8, 0, 0, 0, 32, 0, 0});
    list.push_back({Op::silu_gate, Rows::all, 1, 8, 1, 0, 0, 32, 0, 0});
    list.push_back({Op::add_bias, Rows::all, 1, 1, 0, 0, 0, 32, 0, 0});
    list.push_back({Op::add, Rows::all, 0, 8, 1, 0, 0, 32, 0, 0});
  }
};

// A step with memory of its own for all it needs.
struct OwnStep {
  std::vector<int32_t> ids, positions, logit_rows, hidden_rows;
  std::vector<gemlet::KvState*> states;
  std::vector<int> state_rows;
  std::vector<float> logits, hidden;

  void feed(gemlet::KvState& state, const int32_t* tokens, int rows) {
    states.push_back(&state);
    state_rows.push_back(rows);
    for (int i = 0; i < rows; i++) {
      ids.push_back(tokens[i]);
      positions.push_back(state.length() + i);
    }
  }
  void want_all() {
    for (int i = 0; i < static_cast<int>(ids.size()); i++) {
      logit_rows.push_back(i);
      hidden_rows.push_back(i);
    }
  }
  gemlet::Step step(const gemlet::Program& program) {
    logits.assign(logit_rows.size() * static_cast<size_t>(program.logits_stride()), -1);
    hidden.assign(hidden_rows.size() * static_cast<size_t>(program.hidden_stride()), -1);
    return {ids.data(), positions.data(), static_cast<int>(ids.size()), states, state_rows, logit_rows.data(), static_cast<int>(logit_rows.size()),
            hidden_rows.data(), static_cast<int>(hidden_rows.size()), logits.data(), hidden.data()};
  }
};
