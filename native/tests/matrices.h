// Random weights in the kernels' layout, quantised rows, and what both stand for in double precision.
#pragma once
#include <algorithm>

#include "support.h"

constexpr gemlet::Format kBlockFormats[] = {gemlet::Format::i4, gemlet::Format::i8, gemlet::Format::i4m, gemlet::Format::i8m, gemlet::Format::i8h};
constexpr gemlet::Format kDenseFormats[] = {gemlet::Format::f32, gemlet::Format::f16, gemlet::Format::bf16};

enum class Kind { random, extreme };  // extreme: codes at both ends, scales of any size

class Matrix {
 public:
  Matrix(gemlet::Format format, int rows, int columns, Kind kind, Random& random) : weight_{format, rows, columns, nullptr, nullptr, nullptr} {
    const size_t panels = static_cast<size_t>(weight_.panels()), blocks = panels * static_cast<size_t>(weight_.blocks());
    if (gemlet::is_dense(format))
      fill_dense(panels * static_cast<size_t>(columns) * 16, kind, random);
    else
      fill_blocks(blocks, kind, random);
    weight_.codes = codes_.data();
    weight_.scales = scales_.data();
    weight_.mins = mins_.data();
  }
  Matrix(const Matrix&) = delete;

  const gemlet::Weight& weight() const { return weight_; }

  // Of a block format.
  int code(int row, int column) const {
    const int c = column % 32, group = c / 4;
    const uint8_t* block = codes_.data() + block_of(row, column) * static_cast<size_t>(gemlet::code_bytes(weight_.format));
    const int lane = row % 16 * 4 + c % 4;
    if (!gemlet::is_nibble(weight_.format)) return block[64 * group + lane] - gemlet::zero_point(weight_.format);
    const int byte = block[64 * (group % 4) + lane];
    return (group < 4 ? byte & 15 : byte >> 4) - gemlet::zero_point(weight_.format);
  }
  double scale(int row, int column) const {
    const size_t block = block_of(row, column), lane = static_cast<size_t>(row % 16);
    if (gemlet::has_f16_scales(weight_.format)) return half_value(number<uint16_t>(scales_, block * 16 + lane));
    if (gemlet::has_half_scales(weight_.format)) return number<float>(scales_, (block * 2 + static_cast<size_t>(column % 32 / 16)) * 16 + lane);
    return number<float>(scales_, block * 16 + lane);
  }
  double min(int row, int column) const { return gemlet::has_min(weight_.format) ? mins_[block_of(row, column) * 16 + static_cast<size_t>(row % 16)] : 0.0; }

  // Of any format.
  double value(int row, int column) const {
    if (!gemlet::is_dense(weight_.format)) return scale(row, column) * code(row, column) + min(row, column);
    const size_t at = (static_cast<size_t>(row / 16) * static_cast<size_t>(weight_.columns) + static_cast<size_t>(column)) * 16 + static_cast<size_t>(row % 16);
    if (weight_.format == gemlet::Format::f32) return number<float>(codes_, at);
    const uint16_t bits = number<uint16_t>(codes_, at);
    return weight_.format == gemlet::Format::f16 ? half_value(bits) : float_of(static_cast<uint32_t>(bits) << 16);
  }

 private:
  template <class T>
  static T number(const std::vector<uint8_t>& bytes, size_t at) {
    T value;
    std::memcpy(&value, bytes.data() + at * sizeof(T), sizeof(T));
    return value;
  }
  size_t block_of(int row, int column) const { return static_cast<size_t>(row / 16) * static_cast<size_t>(weight_.blocks()) + static_cast<size_t>(column / 32); }

  template <class T>
  static void append(std::vector<uint8_t>& bytes, T value) {
    bytes.resize(bytes.size() + sizeof(T));
    std::memcpy(bytes.data() + bytes.size() - sizeof(T), &value, sizeof(T));
  }

  void fill_dense(size_t count, Kind kind, Random& random) {
    for (size_t i = 0; i < count; i++) {
      const float value = random.normal() * (kind == Kind::random ? 1.0f : std::ldexp(1.0f, random.between(-14, 12)));
      if (weight_.format == gemlet::Format::f32)
        append(codes_, value);
      else if (weight_.format == gemlet::Format::bf16)
        append(codes_, static_cast<uint16_t>(float_bits(value) >> 16));
      else  // any finite half
        append(codes_, static_cast<uint16_t>(random.bits() & (kind == Kind::random ? 0xbfffu : 0xfbffu)));
    }
  }
  void fill_blocks(size_t blocks, Kind kind, Random& random) {
    codes_.resize(blocks * static_cast<size_t>(gemlet::code_bytes(weight_.format)));
    for (uint8_t& c : codes_) c = static_cast<uint8_t>(kind == Kind::random ? random.bits() : random.below(2) ? 0xff : 0);
    const size_t halves = gemlet::has_half_scales(weight_.format) ? 2 : 1;
    for (size_t i = 0; i < blocks * 16 * halves; i++) {
      const float scale = kind == Kind::random ? random.uniform(0.001f, 0.1f) : random.normal() * std::ldexp(1.0f, random.between(-30, 10));
      if (!gemlet::has_f16_scales(weight_.format))
        append(scales_, scale);
      else  // normal ones near 2^-5, or any finite half
        append(scales_, static_cast<uint16_t>(kind == Kind::random ? 0x2400 + random.below(0x800) : random.bits() & 0xfbffu));
      if (gemlet::has_min(weight_.format)) mins_.push_back(-scale * random.uniform(0, 255));
    }
  }

  gemlet::Weight weight_;
  std::vector<uint8_t> codes_, scales_;
  std::vector<float> mins_;
};

// Rows of activations, quantised by a kernel into memory of exactly the size they need.
class QuantisedRows {
 public:
  QuantisedRows(const gemlet::Kernels& kernels, const float* x, int64_t stride, int rows, int columns, bool precise)
      : precise_(precise), data_(static_cast<size_t>(gemlet::Quantised::bytes(rows, columns, precise)) / sizeof(int64_t)) {
    view_ = {reinterpret_cast<uint8_t*>(data_.data()), columns, precise, std::min(rows, gemlet::Quantised::kTile)};
    for (int r = 0; r < rows; r++) kernels.quantise(x + r * stride, view_, r);
  }
  QuantisedRows(const QuantisedRows&) = delete;

  const gemlet::Quantised& view() const { return view_; }
  const gemlet::QuantisedBlock& block(int row, int b) const { return *reinterpret_cast<const gemlet::QuantisedBlock*>(view_.row(row) + b * view_.stride()); }

  int code(int row, int column) const {
    const gemlet::QuantisedBlock& block = this->block(row, column / 32);
    const int c = column % 32;
    if (precise_) return 256 * block.codes[c] + reinterpret_cast<const gemlet::PreciseBlock&>(block).low[c];
    return block.codes[c] + (c / 4 == block.spare_group() ? block.spare[c % 4] : 0);
  }
  float scale(int row, int column) const { return block(row, column / 32).scale; }

 private:
  bool precise_;
  std::vector<int64_t> data_;
  gemlet::Quantised view_{};
};
