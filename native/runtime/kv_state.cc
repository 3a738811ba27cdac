#include "gemlet/kv_state.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace gemlet {
namespace {

// Local layers keep a page more than their window, so that rejected positions can be taken back.
constexpr int kSlack = kPagePositions;

int pages_for(int positions) { return static_cast<int>(round_up(positions, kPagePositions) / kPagePositions); }

KvPage::Memory allocate(int64_t bytes) {
  void* memory = std::aligned_alloc(64, static_cast<size_t>(round_up(bytes, 64)));
  if (!memory) throw std::bad_alloc();
  return KvPage::Memory(static_cast<uint16_t*>(memory), std::free);
}

// Eight sums side by side, each step of which is a bijection of the sum and of the word: no change within one word goes unseen, and other
// changes with a chance of 2^-64. Not made to resist a forger.
class Checksum {
 public:
  explicit Checksum(uint64_t seed) {
    for (uint64_t i = 0; i < 8; i++) sums_[i] = (seed + i + 1) * kOdd;
  }

  // `bytes` is a multiple of 64.
  void add(const char* data, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) {
      uint64_t words[8];
      std::memcpy(words, data + at, 64);
      for (int i = 0; i < 8; i++) sums_[i] = mixed(sums_[i] ^ words[i]);
    }
  }

  uint64_t value() const {
    uint64_t total = 0;
    for (uint64_t sum : sums_) total = mixed(mixed(total ^ sum));
    return total;
  }

 private:
  static constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio
  static uint64_t mixed(uint64_t x) {
    x *= kOdd;
    return x ^ x >> 32;
  }
  uint64_t sums_[8];
};

uint64_t seed_of(bool local, int index, int rows) { return static_cast<uint64_t>(index) << 32 | static_cast<uint64_t>(rows) << 1 | (local ? 1 : 0); }

bool all_finite(const uint16_t* halves, int64_t count) {
  int bad = 0;
  for (int64_t i = 0; i < count; i++) bad |= (halves[i] & 0x7c00) == 0x7c00;
  return !bad;
}

}  // namespace

int64_t KvPage::nbytes(const KvLayout& layout, bool local) {
  int64_t total = 0;
  for (size_t l = 0; l < layout.layers.size(); l++)
    if (layout.is_local(l) == local) total += layout.page_elements(static_cast<int>(l)) * 2;
  return total;
}

void KvPage::save(char* to) const {
  Checksum sum(seed_of(local_, index_, rows_));
  char* const start = to;
  to += 8;
  size_t i = 0;
  for (size_t l = 0; l < layout_->layers.size(); l++) {
    if (layout_->is_local(l) != local_) continue;
    const int64_t bytes = layout_->page_elements(static_cast<int>(l)) * 2;
    std::memcpy(to, layers_[i++].get(), static_cast<size_t>(bytes));
    sum.add(to, bytes);
    to += bytes;
  }
  const uint64_t value = sum.value();
  std::memcpy(start, &value, 8);
}

KvPage KvPage::restore(std::shared_ptr<const KvLayout> layout, bool local, int index, int rows, std::string_view data) {
  if (index < 0 || rows < 1 || rows > kPagePositions || index > (layout->context - rows) / kPagePositions) throw std::invalid_argument("a page at an impossible place");
  if (static_cast<int64_t>(data.size()) != 8 + nbytes(*layout, local)) throw std::invalid_argument("saved page has another size");
  uint64_t expected;
  std::memcpy(&expected, data.data(), 8);
  const char* from = data.data() + 8;
  Checksum sum(seed_of(local, index, rows));
  bool finite = true;
  std::vector<Memory> layers;
  for (size_t l = 0; l < layout->layers.size(); l++) {
    if (layout->is_local(l) != local) continue;
    const int64_t bytes = layout->page_elements(static_cast<int>(l)) * 2;
    layers.push_back(allocate(bytes));
    std::memcpy(layers.back().get(), from, static_cast<size_t>(bytes));
    sum.add(from, bytes);
    finite = finite && all_finite(layers.back().get(), bytes / 2);
    from += bytes;
  }
  if (sum.value() != expected) throw std::invalid_argument("saved page was altered");
  if (!finite) throw std::invalid_argument("saved page holds what is no number");
  return KvPage(std::move(layout), local, index, rows, std::move(layers));
}

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
    if (layout.is_local(l)) {
      const int64_t kept = static_cast<int64_t>(kSlack) + layout.widest_window() - 1 + rows;
      pages = std::min(pages, (kept - 2) / kPagePositions + 2);  // which lie in the pages as badly as can be
    }
    total += pages * layout.page_elements(static_cast<int>(l)) * 2;
  }
  return total;
}

KvPage::Memory KvState::new_page(int layer) const {
  const int64_t bytes = layout_->page_elements(layer) * 2;
  KvPage::Memory page = allocate(bytes);
  std::memset(page.get(), 0, static_cast<size_t>(bytes));  // positions not written yet are multiplied by zero and must be finite
  return page;
}

void KvState::refresh_pointers(int layer) {
  pointers_[layer].clear();
  for (const KvPage::Memory& page : layers_[layer].pages) pointers_[layer].push_back(page.get());
}

void KvState::reserve(int rows) {
  if (rows < 0 || length_ + static_cast<int64_t>(rows) > layout_->context) throw std::length_error("the sequence would pass the context");
  drop_unseen();
  for (size_t l = 0; l < layers_.size(); l++) {
    const int layer = static_cast<int>(l);
    Layer& kept = layers_[l];
    const int first_written = length_ / kPagePositions, end = pages_for(length_ + rows);
    for (int page = first_written; page < end; page++) {
      const size_t at = static_cast<size_t>(page - kept.first_page);
      if (at == kept.pages.size()) {
        kept.pages.push_back(new_page(layer));
      } else if (kept.pages[at].use_count() > 1) {
        KvPage::Memory own = new_page(layer);
        std::memcpy(own.get(), kept.pages[at].get(), static_cast<size_t>(layout_->page_elements(layer)) * 2);
        kept.pages[at] = std::move(own);
      } else {
        std::atomic_thread_fence(std::memory_order_acquire);  // another thread may have read the page and let go of it just now
      }
    }
    refresh_pointers(layer);
  }
}

void KvState::advance(int rows) { length_ += rows; }

void KvState::drop_unseen() {
  const int start = std::max(0, layout_->first_local_needed(length_) - kSlack) / kPagePositions;
  for (size_t l = 0; l < layers_.size(); l++) {
    Layer& kept = layers_[l];
    if (!layout_->is_local(l) || start <= kept.first_page) continue;
    kept.pages.erase(kept.pages.begin(), kept.pages.begin() + (start - kept.first_page));
    kept.first_page = start;
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

int KvState::first_page() const {
  int first = 0;
  for (const Layer& kept : layers_) first = std::max(first, kept.first_page);
  return first;
}

KvPage KvState::shared_page(int index, bool local) const {
  if (index < 0 || index >= pages_for(length_)) throw std::out_of_range("a sequence of " + std::to_string(length_) + " positions has no page " + std::to_string(index));
  std::vector<KvPage::Memory> layers;
  for (size_t l = 0; l < layers_.size(); l++) {
    if (layout_->is_local(l) != local) continue;
    if (index < layers_[l].first_page) throw std::out_of_range("page " + std::to_string(index) + " was dropped");
    layers.push_back(layers_[l].pages[static_cast<size_t>(index - layers_[l].first_page)]);
  }
  return KvPage(layout_, local, index, std::min(kPagePositions, length_ - index * kPagePositions), std::move(layers));
}

int KvState::first_needed_page(const KvLayout& layout, int length) {
  return layout.widest_window() ? layout.first_local_needed(length) / kPagePositions : pages_for(length);
}

KvState KvState::join(std::shared_ptr<const KvLayout> layout, const std::vector<const KvPage*>& global, const std::vector<const KvPage*>& local, int length) {
  if (length < 0 || length > layout->context) throw std::invalid_argument("a sequence of an impossible length");
  const int count = pages_for(length), first_local = count - static_cast<int>(std::min<size_t>(local.size(), INT_MAX));
  if (global.size() != static_cast<size_t>(count) || first_local < 0 || first_local > first_needed_page(*layout, length)) throw std::invalid_argument("a sequence lacks pages");
  KvState state(layout);
  state.length_ = length;
  for (const bool is_local : {false, true}) {
    const std::vector<const KvPage*>& pages = is_local ? local : global;
    const int first = is_local ? first_local : 0;
    for (size_t i = 0; i < pages.size(); i++) {
      const int index = first + static_cast<int>(i);
      if (!pages[i] || pages[i]->layout() != layout || pages[i]->local() != is_local || pages[i]->index() != index ||
          pages[i]->rows() < std::min(kPagePositions, length - index * kPagePositions))
        throw std::invalid_argument("page " + std::to_string(index) + " does not belong there");
    }
    size_t at = 0;  // among the layers of that kind
    for (size_t l = 0; l < state.layers_.size(); l++) {
      if (layout->is_local(l) != is_local) continue;
      state.layers_[l].first_page = first;
      for (const KvPage* page : pages) state.layers_[l].pages.push_back(page->layer(at));
      state.refresh_pointers(static_cast<int>(l));
      at++;
    }
  }
  return state;
}

}  // namespace gemlet
