// What a program and a step must satisfy before anything runs: everything here comes from outside.
#include <cmath>
#include <stdexcept>
#include <string>

#include "gemlet/program.h"

namespace gemlet {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void require(bool condition, const std::string& what) {
  if (!condition) refuse(what);
}

template <class T>
const T& at(const std::vector<T>& list, int index, const char* what) {
  require(index >= 0 && static_cast<size_t>(index) < list.size(), std::string(what) + " " + std::to_string(index) + " does not exist");
  return list[static_cast<size_t>(index)];
}

struct Checker {
  const ProgramSpec& spec;
  const KvLayout& layout;

  void reads(int buffer, int width, const char* name) const {
    require(width > 0 && at(spec.buffers, buffer, "buffer") >= width, std::string(name) + " is wider than its buffer");
  }
  void writes(const Instruction& in, int width, const char* name) const {
    if (in.out == kLogitsOut) return require(width == spec.vocabulary && in.rows == Rows::logits, "logits have another width than the vocabulary, or other rows");
    if (in.out == kHiddenOut) return require(width == spec.hidden && in.rows == Rows::hidden, "final hidden states have another width, or other rows");
    reads(in.out, width, name);
  }

  void linear(const Instruction& in) const {
    const Weight& w = at(spec.matrices, in.weight, "matrix");
    writes(in, w.rows, "linear");
    if (is_dense(w.format)) {
      require(in.out != in.a, "linear cannot work in place");
      reads(in.a, w.columns, "linear");
    } else {
      require(at(spec.quantised, in.a, "quantised buffer").columns == w.columns, "linear: columns differ from the quantised buffer");
    }
  }
  void attention(const Instruction& in) const {
    const AttendShape& s = at(layout.layers, in.layer, "layer");
    if (in.op == Op::store_key_value) {
      reads(in.a, s.kv_heads * s.head_dim, "keys");
      reads(in.b, s.kv_heads * s.head_dim, "values");
    } else {
      reads(in.a, s.heads * s.head_dim, "queries");
      writes(in, s.heads * s.head_dim, "attention");
    }
  }
  void instruction(const Instruction& in) const {
    const bool positional = in.op == Op::embed || in.op == Op::rope || in.op == Op::store_key_value || in.op == Op::attend;
    require(!positional || in.rows == Rows::all, "an operation that depends on positions works on all rows");
    switch (in.op) {
      case Op::embed: {
        const Weight& w = at(spec.matrices, in.weight, "matrix");
        require(w.rows >= spec.vocabulary, "embedding has fewer rows than the vocabulary");
        return writes(in, w.columns, "embed");
      }
      case Op::norm:
        require(in.group > 0 && in.width % in.group == 0 && at(spec.vectors, in.weight, "vector").size() == static_cast<size_t>(in.group), "norm: group does not fit");
        reads(in.a, in.width, "norm");
        return writes(in, in.width, "norm");
      case Op::add:
      case Op::gelu_gate:
      case Op::silu_gate:
        reads(in.a, in.width, "operand");
        reads(in.b, in.width, "operand");
        return writes(in, in.width, "result");
      case Op::add_bias:
        require(at(spec.vectors, in.weight, "vector").size() == static_cast<size_t>(in.width), "bias: has another width");
        reads(in.a, in.width, "operand");
        return writes(in, in.width, "result");
      case Op::rope:
        require(in.group > 0 && in.group % 2 == 0 && in.width % in.group == 0 && at(spec.rotations, in.weight, "rotation").size() * 2 == static_cast<size_t>(in.group),
                "rope: head size does not fit");
        require(in.out != in.a, "rope cannot work in place");
        reads(in.a, in.width, "rope");
        return writes(in, in.width, "rope");
      case Op::quantise: return reads(in.a, at(spec.quantised, in.out, "quantised buffer").columns, "quantise");
      case Op::linear: return linear(in);
      case Op::store_key_value:
      case Op::attend: return attention(in);
      case Op::select:
        require(in.rows != Rows::all, "select: which rows?");
        reads(in.a, in.width, "select");
        return writes(in, in.width, "select");
    }
    refuse("unknown operation");
  }
};

// Of the products with a matrix that an adapter adds to.
void check_products(const ProgramSpec& spec, int matrix) {
  int products = 0;
  for (const Instruction& in : spec.instructions) {
    if (in.op != Op::linear || in.weight != matrix) continue;
    products++;
    require(in.rows == Rows::all && in.out >= 0 && in.out != in.b, "an adapter cannot add to an output, nor in place");
    require(at(spec.buffers, in.b, "buffer") >= spec.matrices[static_cast<size_t>(matrix)].columns, "a product does not say what its input was made of");
  }
  require(products > 0, "an adapter adds to a matrix that no product is made with");
}

}  // namespace

Adapter Program::make_adapter(const std::vector<std::pair<int, LowRank>>& parts) const {
  Adapter adapter;
  adapter.layout_ = layout_;
  adapter.place_.assign(spec_.matrices.size(), -1);
  for (const auto& [matrix, part] : parts) {
    const Weight& w = at(spec_.matrices, matrix, "matrix");
    int& place = adapter.place_[static_cast<size_t>(matrix)];
    require(place < 0, "an adapter adds to a matrix twice");
    require(is_dense(part.a.format) && is_dense(part.b.format), "an adapter's matrices must be dense");
    require(part.rank() >= 1 && part.rank() <= kMaxRank && part.b.columns == part.rank(), "an adapter has an impossible rank");
    require(part.a.columns == w.columns && part.b.rows == w.rows, "an adapter was made for a matrix of another shape");
    require(std::isfinite(part.scale), "an adapter's scale is not a number");
    check_products(spec_, matrix);
    place = static_cast<int>(adapter.parts_.size());
    adapter.parts_.push_back(part);
  }
  return adapter;
}

void Program::check() const {
  require(spec_.max_rows > 0 && spec_.max_rows <= 4096, "max_rows must be 1 to 4096");
  const auto is_side = [](int n) { return n > 0 && n <= kMaxSide; };
  require(is_side(spec_.vocabulary) && is_side(spec_.hidden), "an output has an impossible width");
  for (int width : spec_.buffers) require(is_side(width), "a buffer has an impossible width");
  for (const QuantisedBuffer& q : spec_.quantised) require(is_side(q.columns) && q.columns % kBlock == 0, "a quantised buffer must have whole blocks of 32");
  for (const Weight& w : spec_.matrices) require(is_side(w.rows) && is_side(w.columns) && (is_dense(w.format) || w.columns % kBlock == 0), "a matrix has an impossible shape");
  for (const auto& v : spec_.vectors) require(!v.empty(), "a vector is empty");
  for (const AttendShape& s : layout_->layers) {
    require(s.heads > 0 && s.heads <= 4096 && s.kv_heads > 0 && s.heads % s.kv_heads == 0, "a layer has an impossible number of heads");
    require(s.head_dim > 0 && s.head_dim <= 4096 && s.window >= 0, "a layer's attention has an impossible shape");
  }
  require(layout_->context > 0, "the context is empty");
  for (const Instruction& in : spec_.instructions) Checker{spec_, *layout_}.instruction(in);
}

void Program::check_step(const Step& step) const {
  require(step.rows > 0 && step.rows <= spec_.max_rows, "a step has 1 to " + std::to_string(spec_.max_rows) + " rows, not " + std::to_string(step.rows));
  require(step.states.size() == step.state_rows.size(), "states and their rows differ in number");
  require(step.logits >= 0 && step.logits <= spec_.max_rows && step.hidden >= 0 && step.hidden <= spec_.max_rows, "more outputs than rows");
  require(step.top >= 0 && step.top <= spec_.vocabulary && (step.top == 0 || (step.top_ids && step.top_values)), "more of the largest logits than there are");
  int row = 0;
  for (size_t s = 0; s < step.states.size(); s++) {
    require(step.states[s] && &step.states[s]->layout() == layout_.get(), "a state belongs to another model");
    require(step.state_rows[s] > 0 && step.state_rows[s] <= step.rows - row, "the states' rows do not add up");
    for (size_t other = 0; other < s; other++) require(step.states[other] != step.states[s], "a state appears twice in a step");
    for (int i = 0; i < step.state_rows[s]; i++, row++) require(step.positions[row] == step.states[s]->length() + i, "positions must follow the state's length");
  }
  require(step.adapters.empty() || step.adapters.size() == step.states.size(), "states and their adapters differ in number");
  for (const Adapter* adapter : step.adapters) require(!adapter || adapter->layout_ == layout_, "an adapter belongs to another model");
  require(row == step.rows, "the states' rows do not add up");
  for (int r = 0; r < step.rows; r++) require(step.ids[r] >= 0 && step.ids[r] < spec_.vocabulary, "token id " + std::to_string(step.ids[r]) + " is outside the vocabulary");
  for (int i = 0; i < step.logits; i++) require(step.logit_rows[i] >= 0 && step.logit_rows[i] < step.rows, "a wanted row does not exist");
  for (int i = 0; i < step.hidden; i++) require(step.hidden_rows[i] >= 0 && step.hidden_rows[i] < step.rows, "a wanted row does not exist");
}

}  // namespace gemlet
