// The keys and values of one sequence, in pages of 64 positions. Copies share pages until one of them writes.
#pragma once
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

  int64_t page_elements(int layer) const { return layers[layer].kv_heads * layers[layer].page_head_elements(); }
  // The first position that layer still has to keep so that a sequence can be cut back to `length` and go on.
  int first_needed(int layer, int length) const { return layers[layer].first_visible(length); }
};

class KvState {
 public:
  explicit KvState(std::shared_ptr<const KvLayout> layout);

  const KvLayout& layout() const { return *layout_; }
  int length() const { return length_; }
  int64_t nbytes() const;

  // Makes room for positions [length, length + rows) and gives this sequence pages of its own there. Throws std::length_error.
  void reserve(int rows);
  // Takes the positions written into the sequence, and drops pages that no later query can see.
  void advance(int rows);
  // Cuts back to the first `length` positions. Throws std::out_of_range when what they need was dropped.
  void trim(int length);
  PageTable table(int layer) const { return {pointers_[layer].data(), layers_[layer].first_page}; }
  uint16_t* page(int layer, int position) const { return pointers_[layer][position / kPagePositions - layers_[layer].first_page]; }

  std::string save() const;
  // Throws std::invalid_argument when the bytes are not a state of this layout.
  static KvState restore(std::shared_ptr<const KvLayout> layout, std::string_view data);

  // Bytes of a sequence at most, while it grows to `positions` in steps of up to `rows`. Throws std::invalid_argument.
  static int64_t price(const KvLayout& layout, int positions, int rows);

 private:
  using Page = std::shared_ptr<uint16_t>;
  struct Layer {
    int first_page = 0;
    std::vector<Page> pages;
  };
  Page new_page(int layer) const;
  void refresh_pointers(int layer);

  std::shared_ptr<const KvLayout> layout_;
  std::vector<Layer> layers_;
  std::vector<std::vector<uint16_t*>> pointers_;
  int length_ = 0;
};

}  // namespace gemlet
