// Reductions over one row of logits. Included inside the namespace of an instruction set.

// A heap of the best k keeps its worst on top; most vectors are dismissed by one comparison with it.
static int top_k(const float* x, int n, int k, int32_t* ids, float* values) {
  k = std::min(k, n);
  if (k <= 0) return 0;
  struct Entry {
    float value;
    int32_t id;
  };
  const auto better = [](const Entry& a, const Entry& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); };
  std::vector<Entry> heap;
  heap.reserve(static_cast<size_t>(k));
  int i = 0;
  for (; i < k; i++) heap.push_back({x[i], i});
  std::make_heap(heap.begin(), heap.end(), better);
  const auto offer = [&](int id) {
    if (!(x[id] > heap.front().value)) return;
    std::pop_heap(heap.begin(), heap.end(), better);
    heap.back() = {x[id], id};
    std::push_heap(heap.begin(), heap.end(), better);
  };
  for (; i + 16 <= n; i += 16)
    if (any_above(load<f32x16>(x + i), heap.front().value))
      for (int j = 0; j < 16; j++) offer(i + j);
  for (; i < n; i++) offer(i);
  std::sort_heap(heap.begin(), heap.end(), better);
  for (int j = 0; j < k; j++) ids[j] = heap[static_cast<size_t>(j)].id, values[j] = heap[static_cast<size_t>(j)].value;
  return k;
}

// Sums of 256 in float, joined in double.
static double log_sum_exp(const float* x, int n) {
  f32x16 highest = splat(-INFINITY);
  int i = 0;
  for (; i + 16 <= n; i += 16) highest = maximum(highest, load<f32x16>(x + i));
  float peak = max_lanes(highest);
  for (; i < n; i++) peak = std::max(peak, x[i]);
  if (!std::isfinite(peak)) return peak;
  double total = 0;
  for (int start = 0; start < n; start += 256) {
    f32x16 part{};
    each_vector(std::min(256, n - start), [&](int j, auto count) {
      const f32x16 v = load_some(x + start + j, count, -INFINITY);
      const f32x16 e = exponential(v - splat(peak));
      part += select(v == splat(-INFINITY), f32x16{}, e);
    });
    total += sum_lanes(part);
  }
  return static_cast<double>(peak) + std::log(total);
}
