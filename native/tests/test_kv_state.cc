// The pages of sequences against a list of what was written, through random histories of several sequences that share pages.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "gemlet/kv_state.h"
#include "support.h"

using namespace gemlet;

namespace {

std::shared_ptr<KvLayout> small_layout(int context) {
  auto layout = std::make_shared<KvLayout>();
  layout->layers = {{2, 1, 5, 100, 1.0f}, {1, 1, 16, 0, 1.0f}, {2, 2, 3, 1, 1.0f}, {1, 1, 1, 64, 1.0f}};
  layout->context = context;
  return layout;
}

// A position's mark fills its place in every head; marks are never zero.
void write(KvState& state, int layer, int position, uint16_t mark) {
  const AttendShape& s = state.layout().layers[static_cast<size_t>(layer)];
  for (int head = 0; head < s.kv_heads; head++) {
    uint16_t* keys = state.page(layer, position) + head * s.page_head_elements();
    uint16_t* values = keys + s.padded_dim() * kPagePositions;
    for (int i = 0; i < s.padded_dim(); i++) keys[i * kPagePositions + position % kPagePositions] = values[position % kPagePositions * s.padded_dim() + i] = mark;
  }
}

struct Sequence {
  KvState state;
  std::vector<uint16_t> marks;

  void check(int max_rows) const {
    const int length = static_cast<int>(marks.size());
    CHECK(state.length() == length);
    CHECK_WITH(state.nbytes() <= KvState::price(state.layout(), length, std::min(length, max_rows)), length, state.nbytes());
    for (int layer = 0; layer < static_cast<int>(state.layout().layers.size()); layer++) {
      const AttendShape& s = state.layout().layers[static_cast<size_t>(layer)];
      const PageTable table = state.table(layer);
      for (int p = state.layout().first_needed(layer, length); p < length; p++)
        for (int head = 0; head < s.kv_heads; head++) {
          const uint16_t* keys = table.pages[p / kPagePositions - table.first_page] + head * s.page_head_elements();
          const uint16_t* values = keys + s.padded_dim() * kPagePositions;
          for (int i = 0; i < s.padded_dim(); i++) {
            const uint16_t mark = marks[static_cast<size_t>(p)];
            CHECK_WITH(keys[i * kPagePositions + p % kPagePositions] == mark && values[p % kPagePositions * s.padded_dim() + i] == mark, layer, p, length);
          }
        }
    }
  }

  void step(int rows, int max_rows, Random& random) {
    state.reserve(rows);
    CHECK(state.nbytes() <= KvState::price(state.layout(), state.length() + rows, max_rows));
    for (int i = 0; i < rows; i++) {
      marks.push_back(static_cast<uint16_t>(1 + random.below(30000)));
      for (int layer = 0; layer < static_cast<int>(state.layout().layers.size()); layer++) write(state, layer, state.length() + i, marks.back());
    }
    state.advance(rows);
  }

  // The bound of a cut is exact: allowed as long as no layer has dropped what a query at its end would see.
  void trim(int length, int longest) {
    bool possible = length >= 0 && length <= state.length();
    for (int layer = 0; possible && layer < static_cast<int>(state.layout().layers.size()); layer++)
      possible = state.layout().first_needed(layer, length) >= state.table(layer).first_page * kPagePositions;
    if (possible) {
      state.trim(length);
      marks.resize(static_cast<size_t>(length));
    } else {
      CHECK_WITH(length < 0 || length > state.length() || length + kPagePositions < longest, length, longest);
      CHECK_THROWS(std::out_of_range, state.trim(length));
    }
  }
};

struct Pages {
  std::vector<KvPage> global, local;
  int first_local = 0;

  // Every page of the global layers, and those of the local ones from `first` on.
  Pages(const KvState& state, int first) : first_local(first) {
    const int count = (state.length() + kPagePositions - 1) / kPagePositions;
    for (int i = 0; i < count; i++) global.push_back(state.shared_page(i, false));
    for (int i = first; i < count; i++) local.push_back(state.shared_page(i, true));
  }
  KvState join(const std::shared_ptr<const KvLayout>& layout, int length) const { return KvState::join(layout, handles(global), handles(local), length); }

  static std::vector<const KvPage*> handles(const std::vector<KvPage>& pages) {
    std::vector<const KvPage*> all;
    for (const KvPage& page : pages) all.push_back(&page);
    return all;
  }
};

std::string saved(const KvPage& page) {
  std::string bytes(static_cast<size_t>(page.saved_bytes()), '\0');
  page.save(bytes.data());
  return bytes;
}

KvPage through_bytes(const KvPage& page) {
  const std::string bytes = saved(page);
  const KvPage back = KvPage::restore(page.layout(), page.local(), page.index(), page.rows(), bytes);
  CHECK(saved(back) == bytes && back.rows() == page.rows());
  return back;
}

// The same sequence made of its pages, or of copies of them, of which as many are local as it needs, or as there are.
KvState through_pages(const std::shared_ptr<const KvLayout>& layout, const KvState& state, bool copied, Random& random) {
  const int needed = KvState::first_needed_page(state.layout(), state.length());
  CHECK(state.first_page() <= needed);
  Pages pages(state, random.below(2) ? needed : state.first_page());
  if (copied)
    for (auto* kind : {&pages.global, &pages.local})
      for (KvPage& page : *kind) page = through_bytes(page);
  return pages.join(layout, state.length());
}

void check_history(uint32_t seed) {
  Random random(seed);
  const int max_rows = std::vector<int>{1, 7, 64, 256}[seed % 4], context = 900;
  const std::shared_ptr<const KvLayout> layout = small_layout(context);
  std::vector<Sequence> sequences;
  sequences.push_back({KvState(layout), {}});
  std::vector<int> longest{0};
  for (int i = 0; i < 120; i++) {
    const size_t at = static_cast<size_t>(random.below(static_cast<int>(sequences.size())));
    Sequence& sequence = sequences[at];
    const int length = sequence.state.length(), rows = random.between(1, max_rows);
    switch (random.below(8)) {
      default:
        if (length + rows > context) {
          CHECK_THROWS(std::length_error, sequence.state.reserve(rows));
        } else {
          sequence.step(rows, max_rows, random);
        }
        break;
      case 0: sequence.trim(std::max(0, length - random.below(80)), longest[at]); break;
      case 1: sequence.trim(random.between(-1, length + 1), longest[at]); break;
      case 2:  // a step that fails after it made room
        if (length + rows <= context) sequence.state.reserve(rows), sequence.trim(length, longest[at]);
        break;
      case 3:
        if (sequences.size() < 5) {
          longest.push_back(longest[at]);
          sequences.push_back(Sequence(sequence));
        }
        break;
      case 4: {
        const int before = sequence.state.first_page();
        sequence.state = through_pages(layout, sequence.state, random.below(2), random);
        if (sequence.state.first_page() > before) longest[at] = std::numeric_limits<int>::max();  // nothing is promised of what was left out
        break;
      }
      case 5:
        if (sequences.size() > 1) {
          sequences.erase(sequences.begin() + static_cast<std::ptrdiff_t>(at));
          longest.erase(longest.begin() + static_cast<std::ptrdiff_t>(at));
        }
        break;
    }
    for (size_t s = 0; s < sequences.size(); s++) {
      longest[s] = std::max(longest[s], sequences[s].state.length());
      if (i % 4 == 0) sequences[s].check(max_rows);
    }
  }
}

// A copy costs nothing until it is written to, and then one page a layer.
void check_sharing() {
  Random random(7);
  const auto layout = small_layout(1000);
  Sequence first{KvState(layout), {}};
  first.step(200, 256, random);
  Sequence second = first;
  for (int layer = 0; layer < 4; layer++) CHECK(first.state.page(layer, 150) == second.state.page(layer, 150));
  second.step(1, 256, random);
  for (int layer = 0; layer < 4; layer++) {
    CHECK(first.state.page(layer, 150) == second.state.page(layer, 150));
    CHECK(first.state.page(layer, 199) != second.state.page(layer, 199));
  }
  first.check(256);
  second.check(256);
}

void check_limits() {
  const auto layout = small_layout(100);
  KvState state(layout);
  CHECK_THROWS(std::length_error, state.reserve(101));
  CHECK_THROWS(std::length_error, state.reserve(-1));
  CHECK_THROWS(std::length_error, state.reserve(std::numeric_limits<int>::max()));
  state.reserve(100);
  state.advance(100);
  CHECK_THROWS(std::length_error, state.reserve(1));
  CHECK(KvState::price(*layout, 0, 0) == 0);
  CHECK_THROWS(std::invalid_argument, KvState::price(*layout, -1, 0));
  CHECK_THROWS(std::invalid_argument, KvState::price(*layout, 0, -1));
  CHECK(KvState::price(*layout, std::numeric_limits<int>::max(), std::numeric_limits<int>::max()) > 0);
  for (int positions = 1; positions < 500; positions++) CHECK(KvState::price(*layout, positions, 7) >= KvState::price(*layout, positions - 1, 7));
}

// A step of any size leaves every page that it completed to be taken, whatever the windows are, and a page taken stays as it was.
void check_taking_pages() {
  Random random(9);
  for (int rows : {1, 50, 64, 256}) {
    const auto layout = small_layout(1000);
    Sequence sequence{KvState(layout), {}};
    std::vector<KvPage> global, local;
    std::vector<std::string> bytes;
    while (sequence.state.length() + rows <= 900) {
      sequence.step(rows, rows, random);
      for (int i = static_cast<int>(global.size()); i < sequence.state.length() / kPagePositions; i++) {
        global.push_back(sequence.state.shared_page(i, false));
        local.push_back(sequence.state.shared_page(i, true));
        bytes.push_back(saved(global.back()) + saved(local.back()));
      }
    }
    for (size_t i = 0; i < global.size(); i++) CHECK_WITH(saved(global[i]) + saved(local[i]) == bytes[i], rows, i);
    // Every length within those pages can be gone on from, and the pages do not change when that is done.
    for (int length = 1; length <= static_cast<int>(global.size()) * kPagePositions; length += length % 61 + 1) {
      const size_t count = static_cast<size_t>((length + kPagePositions - 1) / kPagePositions), first = static_cast<size_t>(KvState::first_needed_page(*layout, length));
      std::vector<const KvPage*> all, some;
      for (size_t i = 0; i < count; i++) all.push_back(&global[i]);
      for (size_t i = first; i < count; i++) some.push_back(&local[i]);
      Sequence resumed{KvState::join(layout, all, some, length), std::vector<uint16_t>(sequence.marks.begin(), sequence.marks.begin() + length)};
      resumed.check(900);
      resumed.step(std::min(70, 1000 - length), 900, random);
      resumed.check(900);
      some.erase(some.begin());
      CHECK_THROWS(std::invalid_argument, KvState::join(layout, all, some, length));
    }
    for (size_t i = 0; i < global.size(); i++) CHECK_WITH(saved(global[i]) + saved(local[i]) == bytes[i], rows, i);
  }
}

// A page is written to by nobody who does not own it alone: not even the sequence it was taken from.
void check_shared_last_page() {
  Random random(10);
  const auto layout = small_layout(1000);
  Sequence sequence{KvState(layout), {}};
  sequence.step(70, 70, random);
  const Pages pages(sequence.state, 0);
  const std::string before = saved(pages.global[1]) + saved(pages.local[1]);
  CHECK(pages.global[1].rows() == 6 && pages.local[0].rows() == kPagePositions);
  sequence.step(10, 70, random);
  CHECK(saved(pages.global[1]) + saved(pages.local[1]) == before);
  CHECK(pages.join(layout, 70).length() == 70);
  CHECK_THROWS(std::invalid_argument, pages.join(layout, 71));  // not written when the page was taken
  CHECK(pages.join(layout, 66).length() == 66);
  CHECK(sequence.state.shared_page(0, false).layer(0) == pages.global[0].layer(0));  // and nothing was copied needlessly
}

void check_wrong_pages() {
  Random random(11);
  const auto layout = small_layout(1000), other = small_layout(1000);
  Sequence sequence{KvState(layout), {}}, foreign{KvState(other), {}};
  sequence.step(200, 200, random);
  foreign.step(200, 200, random);
  const Pages pages(sequence.state, 0), foreign_pages(foreign.state, 0);
  CHECK_THROWS(std::out_of_range, sequence.state.shared_page(-1, false));
  CHECK_THROWS(std::out_of_range, sequence.state.shared_page(4, false));
  CHECK(pages.join(layout, 200).length() == 200);
  for (int length : {-1, 0, 64, 192, 201, 257, 1001, std::numeric_limits<int>::max()}) CHECK_THROWS(std::invalid_argument, pages.join(layout, length));
  for (int i = 0; i < 300; i++) {
    Pages wrong = pages;
    std::vector<KvPage>& kind = random.below(2) ? wrong.global : wrong.local;
    const size_t at = static_cast<size_t>(random.below(4));
    switch (random.below(5)) {
      case 0: kind.erase(kind.begin() + static_cast<std::ptrdiff_t>(at)); break;
      case 1: kind.push_back(kind[at]); break;
      case 2: kind[at] = kind[(at + 1) % 4]; break;
      case 3: kind[at] = (&kind == &wrong.global ? pages.local : pages.global)[at]; break;
      case 4: kind[at] = (&kind == &wrong.global ? foreign_pages.global : foreign_pages.local)[at]; break;
    }
    if (wrong.local.size() == 3 && wrong.local[0].index() == 1) continue;  // the window of 100 needs pages from 101 on only
    CHECK_THROWS(std::invalid_argument, wrong.join(layout, 200));
  }
  std::vector<const KvPage*> missing = Pages::handles(pages.global);
  missing[2] = nullptr;
  CHECK_THROWS(std::invalid_argument, KvState::join(layout, missing, Pages::handles(pages.local), 200));
}

// Bytes that were not saved by a page of this shape and place are refused.
void check_damage() {
  Random random(8);
  auto layout = std::make_shared<KvLayout>();
  layout->layers = {{1, 1, 1, 3, 1.0f}, {1, 1, 2, 0, 1.0f}, {1, 1, 2, 7, 1.0f}};
  layout->context = std::numeric_limits<int>::max();  // so that nothing but the page bounds a place
  Sequence sequence{KvState(layout), {}};
  sequence.step(70, 70, random);
  const std::string bytes = saved(sequence.state.shared_page(1, true));
  const auto restore = [&](const std::string& data, bool local = true, int index = 1, int rows = 6) { return KvPage::restore(layout, local, index, rows, data); };
  CHECK(restore(bytes).rows() == 6);
  for (size_t i = 0; i < bytes.size(); i++) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ (1 << random.below(8)));
    CHECK_THROWS(std::invalid_argument, restore(changed));
    changed = bytes;
    std::fill(changed.begin() + static_cast<std::ptrdiff_t>(i), changed.end(), '\0');  // as after a crash before the data were written
    if (changed != bytes) CHECK_THROWS(std::invalid_argument, restore(changed));
    if (i % 64 == 0) CHECK_THROWS(std::invalid_argument, restore(bytes.substr(0, i)));
  }
  CHECK_THROWS(std::invalid_argument, restore(bytes + '\0'));
  CHECK_THROWS(std::invalid_argument, restore(std::string()));
  for (int value : {-1, 0, 2, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) CHECK_THROWS(std::invalid_argument, restore(bytes, true, value));
  for (int value : {-1, 0, 5, 7, 65, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) CHECK_THROWS(std::invalid_argument, restore(bytes, true, 1, value));
  CHECK_THROWS(std::invalid_argument, restore(bytes, false));

  // What is no number would reach rows that may not see it: refused even with a checksum that fits.
  for (uint16_t value : {0x7c00, 0xfc00, 0x7e01}) {
    const KvPage page = through_bytes(sequence.state.shared_page(1, true));
    page.layer(1).get()[77] = value;
    const std::string changed = saved(page);
    CHECK_THROWS(std::invalid_argument, restore(changed));
  }
}

}  // namespace

int main() {
  for (uint32_t seed = 0; seed < 40; seed++) check_history(seed);
  check_sharing();
  check_limits();
  check_taking_pages();
  check_shared_last_page();
  check_wrong_pages();
  check_damage();
}
