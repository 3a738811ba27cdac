#include "gemlet/kv_state.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace gemlet {
namespace {

// Local layers keep a page more than their window, so that rejected positions can be taken back.
constexpr int kSlack = kPagePositions;

constexpr char kMagic[8] = {'G', 'E', 'M', 'L', 'K', 'V', '0', '1'};

int pages_for(int positions) { return static_cast<int>(round_up(positions, kPagePositions) / kPagePositions); }

void append(std::string& out, const void* data, size_t size) { out.append(static_cast<const char*>(data), size); }

void append_int(std::string& out, int32_t value) { append(out, &value, sizeof value); }

struct Reader {
  std::string_view rest;

  void read(void* to, size_t size) {
    if (rest.size() < size) throw std::invalid_argument("saved state is cut short");
    std::memcpy(to, rest.data(), size);
    rest.remove_prefix(size);
  }
  int32_t read_int() {
    int32_t value;
    read(&value, sizeof value);
    return value;
  }
};

}  // namespace

KvState::KvState(std::shared_ptr<const KvLayout> layout) : layout_(std::move(layout)), layers_(layout_->layers.size()), pointers_(layout_->layers.size()) {}

int64_t KvState::nbytes() const {
  int64_t total = 0;
  for (size_t l = 0; l < layers_.size(); l++) total += static_cast<int64_t>(layers_[l].pages.size()) * layout_->page_elements(static_cast<int>(l)) * 2;
  return total;
}

int64_t KvState::price(const KvLayout& layout, int positions, int rows) {
  if (positions < 0 || rows < 0) throw std::invalid_argument("a negative number of positions");
  int64_t total = 0;
  for (size_t l = 0; l < layout.layers.size(); l++) {
    int64_t pages = pages_for(positions);
    if (const int window = layout.layers[l].window; window > 0) {
      const int64_t kept = static_cast<int64_t>(kSlack) + window - 1 + rows;
      pages = std::min(pages, (kept - 2) / kPagePositions + 2);  // which lie in the pages as badly as can be
    }
    total += pages * layout.page_elements(static_cast<int>(l)) * 2;
  }
  return total;
}

KvState::Page KvState::new_page(int layer) const {
  const size_t bytes = static_cast<size_t>(round_up(layout_->page_elements(layer) * 2, 64));
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, bytes);  // positions not written yet are multiplied by zero and must be finite
  return Page(static_cast<uint16_t*>(memory), std::free);
}

void KvState::refresh_pointers(int layer) {
  pointers_[layer].clear();
  for (const Page& page : layers_[layer].pages) pointers_[layer].push_back(page.get());
}

void KvState::reserve(int rows) {
  if (rows < 0 || length_ + static_cast<int64_t>(rows) > layout_->context) throw std::length_error("the sequence would pass the context");
  for (size_t l = 0; l < layers_.size(); l++) {
    const int layer = static_cast<int>(l);
    Layer& kept = layers_[l];
    const int first_written = length_ / kPagePositions, end = pages_for(length_ + rows);
    for (int page = first_written; page < end; page++) {
      const size_t at = static_cast<size_t>(page - kept.first_page);
      if (at == kept.pages.size()) {
        kept.pages.push_back(new_page(layer));
      } else if (kept.pages[at].use_count() > 1) {
        Page own = new_page(layer);
        std::memcpy(own.get(), kept.pages[at].get(), static_cast<size_t>(layout_->page_elements(layer)) * 2);
        kept.pages[at] = std::move(own);
      }
    }
    refresh_pointers(layer);
  }
}

void KvState::advance(int rows) {
  length_ += rows;
  for (size_t l = 0; l < layers_.size(); l++) {
    Layer& kept = layers_[l];
    const int start = std::max(0, layout_->first_needed(static_cast<int>(l), length_) - kSlack) / kPagePositions;
    if (start <= kept.first_page) continue;
    kept.pages.erase(kept.pages.begin(), kept.pages.begin() + (start - kept.first_page));
    kept.first_page = start;
    refresh_pointers(static_cast<int>(l));
  }
}

void KvState::trim(int length) {
  if (length < 0 || length > length_) throw std::out_of_range("a sequence of " + std::to_string(length_) + " positions cannot be cut to " + std::to_string(length));
  for (size_t l = 0; l < layers_.size(); l++)
    if (layout_->first_needed(static_cast<int>(l), length) < layers_[l].first_page * kPagePositions)
      throw std::out_of_range("positions before " + std::to_string(layers_[l].first_page * kPagePositions) + " were dropped; a cut to " + std::to_string(length) +
                              " needs them from " + std::to_string(layout_->first_needed(static_cast<int>(l), length)));
  length_ = length;
  for (size_t l = 0; l < layers_.size(); l++) {
    layers_[l].pages.resize(static_cast<size_t>(std::max(0, pages_for(length) - layers_[l].first_page)));
    refresh_pointers(static_cast<int>(l));
  }
}

std::string KvState::save() const {
  std::string out;
  append(out, kMagic, sizeof kMagic);
  append_int(out, static_cast<int32_t>(layers_.size()));
  append_int(out, length_);
  for (size_t l = 0; l < layers_.size(); l++) {
    const AttendShape& s = layout_->layers[l];
    for (int32_t value : {s.kv_heads, s.head_dim, s.window, layers_[l].first_page, static_cast<int32_t>(layers_[l].pages.size())}) append_int(out, value);
    for (const Page& page : layers_[l].pages) append(out, page.get(), static_cast<size_t>(layout_->page_elements(static_cast<int>(l))) * 2);
  }
  return out;
}

KvState KvState::restore(std::shared_ptr<const KvLayout> layout, std::string_view data) {
  Reader in{data};
  char magic[sizeof kMagic];
  in.read(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, sizeof kMagic) != 0) throw std::invalid_argument("not a saved state");
  KvState state(std::move(layout));
  if (in.read_int() != static_cast<int32_t>(state.layers_.size())) throw std::invalid_argument("saved state has another number of layers");
  const int length = in.read_int();
  if (length < 0 || length > state.layout_->context) throw std::invalid_argument("saved state has an impossible length");
  for (size_t l = 0; l < state.layers_.size(); l++) {
    const int layer = static_cast<int>(l);
    const AttendShape& s = state.layout_->layers[l];
    if (in.read_int() != s.kv_heads || in.read_int() != s.head_dim || in.read_int() != s.window) throw std::invalid_argument("saved state belongs to a model of another shape");
    const int first = in.read_int(), count = in.read_int();
    const int needed = state.layout_->first_needed(layer, length) / kPagePositions;
    if (first < 0 || first > needed || count != pages_for(length) - first) throw std::invalid_argument("saved state lacks pages");
    state.layers_[l].first_page = first;
    for (int i = 0; i < count; i++) {
      state.layers_[l].pages.push_back(state.new_page(layer));
      in.read(state.layers_[l].pages.back().get(), static_cast<size_t>(state.layout_->page_elements(layer)) * 2);
    }
    state.refresh_pointers(layer);
  }
  if (!in.rest.empty()) throw std::invalid_argument("saved state has bytes left over");
  state.length_ = length;
  return state;
}

}  // namespace gemlet
