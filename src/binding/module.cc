// Python's view of the native library. Every array is checked for type and size before a pointer to it is kept.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "gemlet/limits.h"
#include "gemlet/program.h"

namespace nb = nanobind;
using namespace gemlet;

namespace {

// A C-contiguous array borrowed from Python for as long as this lives.
class Array {
 public:
  Array(nb::handle object, const char* kinds, const char* name, bool writable = false) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) != 0) {
      PyErr_Clear();
      throw std::invalid_argument(std::string(name) + ": needs a contiguous array" + (writable ? " that can be written" : ""));
    }
    const std::string format = view_.format ? view_.format : "B";
    if (format.size() != 1 || std::string(kinds).find(format) == std::string::npos) {
      PyBuffer_Release(&view_);
      throw std::invalid_argument(std::string(name) + ": element type '" + format + "', expected one of '" + kinds + "'");
    }
  }
  Array(Array&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  Array(const Array&) = delete;
  ~Array() {
    if (view_.obj) PyBuffer_Release(&view_);
  }

  void need_bytes(int64_t bytes, const char* name) const {
    if (view_.len != bytes) throw std::invalid_argument(std::string(name) + ": " + std::to_string(view_.len) + " bytes, expected " + std::to_string(bytes));
  }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  int64_t count() const { return view_.len / view_.itemsize; }

 private:
  Py_buffer view_{};
};

using MatrixTuple = std::tuple<int, int, int, nb::object, nb::object, nb::object>;  // format, rows, columns, codes, scales, mins
using LayerTuple = std::tuple<int, int, int, int, float>;                           // heads, kv_heads, head_dim, window, scale
using InstructionTuple = std::tuple<int, int, int, int, int, int, int, int, int, float>;

using PartTuple = std::tuple<int, MatrixTuple, MatrixTuple, float>;  // matrix, A, B, scale

// Arrays that matrices lie in, borrowed for as long as this lives.
struct Borrowed {
  std::vector<Array> arrays;

  Borrowed() = default;
  Borrowed(Borrowed&&) = default;
  Borrowed(const Borrowed&) = delete;

  Weight matrix(const MatrixTuple& m) {
    const auto& [format, rows, columns, codes, scales, mins] = m;
    if (format < 0 || format > static_cast<int>(Format::bf16) || rows <= 0 || rows > kMaxSide || columns <= 0 || columns > kMaxSide)
      throw std::invalid_argument("matrix: impossible format or shape");
    Weight w{static_cast<Format>(format), rows, columns, nullptr, nullptr, nullptr};
    const int64_t panels = w.panels(), blocks = panels * w.blocks();
    if (is_dense(w.format)) {
      arrays.emplace_back(codes, w.format == Format::f32 ? "f" : "H", "values");
      arrays.back().need_bytes(panels * columns * 16 * dense_bytes(w.format), "values");
      w.codes = arrays.back().data<uint8_t>();
      return w;
    }
    if (columns % kBlock != 0) throw std::invalid_argument("matrix: columns must be whole blocks of 32");
    arrays.emplace_back(codes, "B", "quants");
    arrays.back().need_bytes(blocks * code_bytes(w.format), "quants");
    w.codes = arrays.back().data<uint8_t>();
    arrays.emplace_back(scales, has_f16_scales(w.format) ? "e" : "f", "scales");
    arrays.back().need_bytes(blocks * (has_f16_scales(w.format) ? 32 : has_half_scales(w.format) ? 128 : 64), "scales");
    w.scales = arrays.back().data<uint8_t>();
    if (has_min(w.format)) {
      arrays.emplace_back(mins, "f", "mins");
      arrays.back().need_bytes(blocks * 64, "mins");
      w.mins = arrays.back().data<float>();
    }
    return w;
  }
};

struct BoundAdapter {
  Borrowed borrowed;
  Adapter adapter;
};

struct BoundProgram {
  Borrowed borrowed;
  std::shared_ptr<const KvLayout> layout;
  std::unique_ptr<Program> program;

  static std::vector<float> floats(nb::handle object) {
    const Array a(object, "f", "vector");
    return std::vector<float>(a.data<float>(), a.data<float>() + a.count());
  }
};

void init_program(BoundProgram* self, const std::string& isa, int threads, std::tuple<int, int, int, int> shape, const std::vector<LayerTuple>& layers, const std::vector<int>& buffers,
                  const std::vector<std::pair<int, bool>>& quantised, const std::vector<MatrixTuple>& matrices, const std::vector<nb::object>& vectors,
                  const std::vector<nb::object>& rotations, const std::vector<InstructionTuple>& instructions) {
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw std::invalid_argument("instruction set '" + isa + "' is not available here");
  if (threads < 1 || threads > 256) throw std::invalid_argument("threads must be 1 to 256");
  auto bound = std::make_unique<BoundProgram>();
  ProgramSpec spec;
  auto layout = std::make_shared<KvLayout>();
  std::tie(spec.max_rows, spec.vocabulary, spec.hidden, layout->context) = shape;
  for (const auto& [heads, kv_heads, head_dim, window, scale] : layers) layout->layers.push_back({heads, kv_heads, head_dim, window, scale});
  spec.buffers = buffers;
  for (const auto& [columns, precise] : quantised) spec.quantised.push_back({columns, precise});
  for (const MatrixTuple& m : matrices) spec.matrices.push_back(bound->borrowed.matrix(m));
  for (const nb::object& v : vectors) spec.vectors.push_back(BoundProgram::floats(v));
  for (const nb::object& r : rotations) spec.rotations.push_back(BoundProgram::floats(r));
  for (const auto& [op, rows, out, a, b, weight, layer, width, group, value] : instructions) {
    if (op < 0 || op >= kOps || rows < 0 || rows > 2) throw std::invalid_argument("unknown operation or set of rows");
    spec.instructions.push_back({static_cast<Op>(op), static_cast<Rows>(rows), out, a, b, weight, layer, width, group, value});
  }
  bound->layout = layout;
  bound->program = std::make_unique<Program>(std::move(spec), layout, *kernels, threads);
  new (self) BoundProgram(std::move(*bound));
}

BoundAdapter make_adapter(const BoundProgram& self, const std::vector<PartTuple>& parts) {
  BoundAdapter bound;
  std::vector<std::pair<int, LowRank>> low_rank;
  for (const auto& [matrix, a, b, scale] : parts) {
    const Weight down = bound.borrowed.matrix(a), up = bound.borrowed.matrix(b);
    low_rank.push_back({matrix, {down, up, scale}});
  }
  bound.adapter = self.program->make_adapter(low_rank);
  return bound;
}

// Logits whole in `logits_out`, or with top > 0 the largest in `top_ids` and `top_values`, among those that `allowed` (empty for all) has bits of.
void run_step(BoundProgram& self, nb::handle ids, nb::handle positions, const std::vector<KvState*>& states, const std::vector<int>& rows, nb::handle logit_rows,
              nb::handle hidden_rows, nb::handle logits_out, nb::handle hidden_out, const std::vector<const BoundAdapter*>& state_adapters, int top, nb::handle top_ids,
              nb::handle top_values, nb::handle allowed_bits) {
  const Array id(ids, "i", "ids"), position(positions, "i", "positions"), wanted(logit_rows, "i", "logit rows"), wanted_hidden(hidden_rows, "i", "hidden rows");
  const Array logits(logits_out, "f", "logits", true), states_out(hidden_out, "f", "hidden states", true);
  if (id.count() != position.count()) throw std::invalid_argument("ids and positions differ in number");
  if (top < 0) throw std::invalid_argument("top must not be negative");
  const Array largest(top_ids, "i", "top ids", true), values(top_values, "f", "top values", true);
  largest.need_bytes(wanted.count() * top * 4, "top ids");
  values.need_bytes(wanted.count() * top * 4, "top values");
  const Array allowed(allowed_bits, "H", "allowed");
  if (allowed.count() > 0) allowed.need_bytes(wanted.count() * (self.program->logits_stride() / kPanel) * 2, "allowed");
  logits.need_bytes(top > 0 ? 0 : wanted.count() * self.program->logits_stride() * 4, "logits");
  states_out.need_bytes(wanted_hidden.count() * self.program->hidden_stride() * 4, "hidden states");
  for (const KvState* state : states)
    if (!state) throw std::invalid_argument("a state is missing");
  std::vector<const Adapter*> adapters;
  for (const BoundAdapter* bound : state_adapters) adapters.push_back(bound ? &bound->adapter : nullptr);
  const Step step{id.data<int32_t>(), position.data<int32_t>(), static_cast<int>(id.count()), states, rows, wanted.data<int32_t>(), static_cast<int>(wanted.count()),
                  wanted_hidden.data<int32_t>(), static_cast<int>(wanted_hidden.count()), logits.data<float>(), states_out.data<float>(), adapters,
                  top, largest.data<int32_t>(), values.data<float>(), allowed.count() > 0 ? allowed.data<uint16_t>() : nullptr};
  nb::gil_scoped_release unlocked;
  self.program->run(step);
}

nb::object save_page(const KvPage& page) {
  nb::object bytes = nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(page.saved_bytes())));
  if (!bytes.is_valid()) throw nb::python_error();
  char* const to = PyBytes_AsString(bytes.ptr());
  nb::gil_scoped_release unlocked;
  page.save(to);
  return bytes;
}

KvPage restore_page(const BoundProgram& self, bool local, int index, int rows, nb::handle data) {
  const Array bytes(data, "B", "page");
  const std::string_view view(bytes.data<char>(), static_cast<size_t>(bytes.count()));
  nb::gil_scoped_release unlocked;
  return KvPage::restore(self.layout, local, index, rows, view);
}

using SketchArrays = std::tuple<nb::object, nb::object, nb::object, nb::object, nb::object, nb::object>;  // panels, fine, drops, inverse, steps, centres

void set_head(BoundProgram& self, std::tuple<int, int, int, int, int> shape, const SketchArrays& arrays, std::tuple<float, float, float> bounds) {
  HeadSketch s;
  std::tie(s.rows, s.columns, s.bytes, s.nibbles, s.top) = shape;
  std::tie(s.fine_step, s.slack, s.largest) = bounds;
  const auto is_part = [&](int n) { return n >= 0 && n <= s.columns && n % 16 == 0; };
  if (s.rows <= 0 || s.rows > kMaxSide || s.columns <= 0 || s.columns > kMaxSide || !is_part(s.columns) || !is_part(s.bytes) || !is_part(s.nibbles) || s.bytes + s.nibbles > s.columns)
    throw std::invalid_argument("head sketch: impossible shape");
  const auto borrow = [&](nb::handle object, const char* kind, int64_t bytes, const char* name) {
    self.borrowed.arrays.emplace_back(object, kind, name);
    self.borrowed.arrays.back().need_bytes(bytes, name);
    return self.borrowed.arrays.back().data<uint8_t>();
  };
  const auto floats = [](uint8_t* p) { return reinterpret_cast<const float*>(p); };
  s.panels = borrow(std::get<0>(arrays), "B", s.panel_count() * s.panel_bytes(), "panels");
  s.fine = borrow(std::get<1>(arrays), "B", s.rows * s.fine_bytes(), "fine");
  s.drops = floats(borrow(std::get<2>(arrays), "f", 4LL * s.rows, "drops"));
  s.inverse = floats(borrow(std::get<3>(arrays), "f", 4LL * s.columns * s.columns, "inverse"));
  s.steps = floats(borrow(std::get<4>(arrays), "f", 4LL * s.columns, "steps"));
  s.centres = floats(borrow(std::get<5>(arrays), "f", 4LL * s.columns, "centres"));
  self.program->set_head(s);
}

int row_top_k(const BoundProgram& self, nb::handle row, nb::handle ids, nb::handle values) {
  const Array x(row, "f", "row"), id(ids, "i", "ids", true), value(values, "f", "values", true);
  if (id.count() != value.count()) throw std::invalid_argument("ids and values differ in number");
  return self.program->kernels().top_k(x.data<float>(), static_cast<int>(x.count()), static_cast<int>(id.count()), id.data<int32_t>(), value.data<float>());
}

double row_log_sum_exp(const BoundProgram& self, nb::handle row) {
  const Array x(row, "f", "row");
  return self.program->kernels().log_sum_exp(x.data<float>(), static_cast<int>(x.count()));
}

std::tuple<double, double, double> measured_limits(const std::string& isa, int threads, int64_t bytes, double seconds) {
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw std::invalid_argument("instruction set '" + isa + "' is not available here");
  nb::gil_scoped_release unlocked;
  const Limits limits = measure_limits(*kernels, threads, bytes, seconds);
  return {limits.read_bytes, limits.byte_products, limits.float_products};
}

}  // namespace

NB_MODULE(_native, m) {
  // A forked child inherits objects that only the parent's engine thread could free: not a leak to report there.
  nb::set_leak_warnings(false);

  m.def("instruction_set", [](const std::string& wanted) -> nb::object {
    const Kernels* kernels = find_kernels(wanted.c_str());
    return kernels ? nb::object(nb::str(kernels->name)) : nb::none();
  });

  m.def("measure_limits", &measured_limits);

  nb::class_<KvState>(m, "State")
      .def_prop_ro("length", &KvState::length)
      .def_prop_ro("nbytes", &KvState::nbytes)
      .def("copy", [](const KvState& state) { return KvState(state); })
      .def("trim", &KvState::trim)
      .def_prop_ro("first_page", &KvState::first_page)
      .def("page", &KvState::shared_page);

  nb::class_<KvPage>(m, "Page")
      .def_prop_ro("rows", &KvPage::rows)
      .def_prop_ro("nbytes", [](const KvPage& page) { return page.nbytes(); })
      .def("save", &save_page);

  nb::class_<BoundAdapter>(m, "Adapter");

  nb::class_<BoundProgram>(m, "Program")
      .def("__init__", &init_program)
      .def_prop_ro("instruction_set", [](const BoundProgram& p) { return std::string(p.program->kernels().name); })
      .def_prop_ro("threads", [](const BoundProgram& p) { return p.program->threads(); })
      .def("new_state", [](const BoundProgram& p) { return KvState(p.layout); })
      .def("first_needed_page", [](const BoundProgram& p, int length) { return KvState::first_needed_page(*p.layout, length); })
      .def("restore", &restore_page)
      .def("join", [](const BoundProgram& p, const std::vector<const KvPage*>& global, const std::vector<const KvPage*>& local, int length) { return KvState::join(p.layout, global, local, length); })
      .def("price", [](const BoundProgram& p, int positions, int rows) { return KvState::price(*p.layout, positions, rows); })
      .def("adapter", &make_adapter)
      .def("step", &run_step)
      .def("set_head", &set_head)
      .def("take_head_counts",
           [](BoundProgram& p) {
             const HeadCounts c = p.program->take_head_counts();
             return std::make_tuple(c.queries, c.whole, c.doubtful, c.likely, c.panels);
           })
      .def("top_k", &row_top_k)
      .def("log_sum_exp", &row_log_sum_exp)
      .def("measure", [](BoundProgram& p, bool on) { p.program->measure(on); })
      .def("take_seconds", [](BoundProgram& p) { return p.program->take_seconds(); });
}
