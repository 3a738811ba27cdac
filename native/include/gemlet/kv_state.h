// The keys and values of one sequence, in pages of 64 positions. Copies, and whoever holds a page, share it until a sequence writes to it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gemlet/types.h"

namespace gemlet {

struct KvLayout {
  std::vector<AttendShape> layers;
  int context = 0;  // positions a sequence may hold

  // Layers with a window keep what the widest of them needs, so that a page of them is held whole or not at all.
  int widest_window() const {
    int widest = 0;
    for (const AttendShape& layer : layers) widest = std::max(widest, layer.window);
    return widest;
  }
  // The first position that those layers still have to keep so that a sequence can be cut back to `length` and go on.
  int first_local_needed(int length) const { return std::max(0, length - widest_window() + 1); }
  bool is_local(size_t layer) const { return layers[layer].window > 0; }
  int64_t page_elements(int layer) const { return layers[layer].kv_heads * layers[layer].page_head_elements(); }
  // The first position that the next query of a sequence of `length` sees in that layer.
  int first_needed(int layer, int length) const { return layers[layer].first_visible(length); }
};

// What a sequence holds of positions [64 * index, 64 * index + rows), in its layers with a window (local) or in its others. Whoever holds
// one shares its memory with the sequence; nobody writes to it.
class KvPage {
 public:
  using Memory = std::shared_ptr<uint16_t>;

  KvPage(std::shared_ptr<const KvLayout> layout, bool local, int index, int rows, std::vector<Memory> layers)
      : layout_(std::move(layout)), local_(local), index_(index), rows_(rows), layers_(std::move(layers)) {}

  const std::shared_ptr<const KvLayout>& layout() const { return layout_; }
  bool local() const { return local_; }
  int index() const { return index_; }
  int rows() const { return rows_; }
  int64_t nbytes() const { return nbytes(*layout_, local_); }
  static int64_t nbytes(const KvLayout& layout, bool local);
  const Memory& layer(size_t i) const { return layers_[i]; }  // the i-th of those layers

  int64_t saved_bytes() const { return 8 + nbytes(); }
  void save(char* to) const;
  // Throws std::invalid_argument when the bytes are not a page of this layout and place as `save` wrote it.
  static KvPage restore(std::shared_ptr<const KvLayout> layout, bool local, int index, int rows, std::string_view data);

 private:
  std::shared_ptr<const KvLayout> layout_;
  bool local_;
  int index_, rows_;
  std::vector<Memory> layers_;
};

class KvState {
 public:
  explicit KvState(std::shared_ptr<const KvLayout> layout);

  const KvLayout& layout() const { return *layout_; }
  int length() const { return length_; }
  int64_t nbytes() const;

  // Drops pages that no later query can see, makes room for positions [length, length + rows), and gives this sequence pages of its own
  // there. Throws std::length_error.
  void reserve(int rows);
  // Takes the positions written into the sequence. What the step began with is still there, so that each page can be taken once complete.
  void advance(int rows);
  // Cuts back to the first `length` positions. Throws std::out_of_range when what they need was dropped.
  void trim(int length);
  PageTable table(int layer) const { return {pointers_[layer].data(), layers_[layer].first_page}; }
  uint16_t* page(int layer, int position) const { return pointers_[layer][position / kPagePositions - layers_[layer].first_page]; }

  // The first page that the layers with a window hold.
  int first_page() const;
  // Throws std::out_of_range for a page that is not held or not begun.
  KvPage shared_page(int index, bool local) const;
  // The first page that local layers need in a sequence of that length which goes on.
  static int first_needed_page(const KvLayout& layout, int length);
  // The sequence of `length` positions in these pages: all of the global layers, and of the local ones the last, from the first needed or
  // an earlier one on. Throws std::invalid_argument when they are others.
  static KvState join(std::shared_ptr<const KvLayout> layout, const std::vector<const KvPage*>& global, const std::vector<const KvPage*>& local, int length);

  // Bytes of a sequence at most, while it grows to `positions` in steps of up to `rows`. Throws std::invalid_argument.
  static int64_t price(const KvLayout& layout, int positions, int rows);

 private:
  struct Layer {
    int first_page = 0;
    std::vector<KvPage::Memory> pages;
  };
  KvPage::Memory new_page(int layer) const;
  void drop_unseen();
  void refresh_pointers(int layer);

  std::shared_ptr<const KvLayout> layout_;
  std::vector<Layer> layers_;
  std::vector<std::vector<uint16_t*>> pointers_;
  int length_ = 0;
};

}  // namespace gemlet
