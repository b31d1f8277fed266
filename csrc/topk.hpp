// The k largest elements of each row, largest first, ties to the lower index. NaN counts as smaller than everything.
//
// One pass with a heap of the k best so far, worst on top: once it is full, most elements fail one comparison with the
// top, and a whole vector of them fails at once.
#pragma once

#include "parallel.hpp"

namespace {

template <class T> struct Candidate {
    T value;
    idx at;
};

template <class T> inline bool above(T a, T b) { return a > b || (b != b && a == a); }

template <class T> inline bool worse(const Candidate<T> &a, const Candidate<T> &b) {
    if (above(b.value, a.value))
        return true;
    return !above(a.value, b.value) && a.at > b.at;
}

template <class T> inline void sift_down(Candidate<T> *heap, idx size, idx i) {
    const Candidate<T> moving = heap[i];
    for (idx child = 2 * i + 1; child < size; child = 2 * i + 1) {
        if (child + 1 < size && worse(heap[child + 1], heap[child]))
            ++child;
        if (!worse(heap[child], moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

template <class T> void topk(const T *x, T *values, std::int64_t *indices, idx rows, idx n, idx k) {
    if (k == 0)
        return;
    const idx threads = thread_count();
    const Scratch<Candidate<T>> heaps(threads * k);
    parallel_for(
        rows, 2 * n,
        [&](idx r, idx thread) {
            const T *row = x + r * n;
            Candidate<T> *heap = heaps + thread * k;
            for (idx i = 0; i < k; ++i)
                heap[i] = {row[i], i};
            for (idx i = k / 2 - 1; i >= 0; --i)
                sift_down(heap, k, i);

            const auto offer = [&](idx i) {
                if (above(row[i], heap[0].value)) {
                    heap[0] = {row[i], i};
                    sift_down(heap, k, 0);
                }
            };
            idx i = k;
            for (; i + lanes<T> <= n; i += lanes<T>) {
                const T worst = heap[0].value;
                if (worst == worst) { // skip the vector if its maximum fails; a NaN on top lets everything in
                    vec<T> v = load(row + i);
                    if (!(maximum<T>(vmax<T>(splat<T>(-infinity<T>), v)) > worst))
                        continue;
                }
                for (idx j = i; j < i + lanes<T>; ++j)
                    offer(j);
            }
            for (; i < n; ++i)
                offer(i);

            for (idx left = k; left > 0; --left) { // heap sort: the worst of those left goes last
                values[r * k + left - 1] = heap[0].value;
                indices[r * k + left - 1] = heap[0].at;
                heap[0] = heap[left - 1];
                sift_down(heap, left - 1, 0);
            }
        },
        threads);
}

} // namespace
