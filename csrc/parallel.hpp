// Sharing out independent tasks among OpenMP threads, and scratch memory for them.
//
// A task's result never depends on which thread runs it or on how many there are: every kernel cuts its work into
// tasks by the shape of the data alone, and sums across tasks are added up in task order afterwards.
#pragma once

#include "simd.hpp"

#include <cstdlib>
#include <new>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

inline int thread_count() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// Below this many element operations, waking a second thread costs more than it saves.
constexpr idx worth_a_thread = 1 << 15;

// Runs task(i, thread) for i in [0, tasks); `cost` is a rough count of element operations per task.
template <class Task> inline void parallel_for(idx tasks, idx cost, Task task) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) if (tasks > 1 && tasks * cost > worth_a_thread)
    for (idx i = 0; i < tasks; ++i)
        task(i, static_cast<idx>(omp_get_thread_num()));
#else
    (void)cost;
    for (idx i = 0; i < tasks; ++i)
        task(i, idx(0));
#endif
}

// Uninitialised memory, aligned to a cache line. Allocate before the parallel region: nothing may throw inside it.
template <class T> class Scratch {
  public:
    explicit Scratch(idx count) : raw_(std::malloc(static_cast<std::size_t>(count) * sizeof(T) + 64)) {
        if (!raw_)
            throw std::bad_alloc();
        const auto address = reinterpret_cast<std::uintptr_t>(raw_);
        data_ = reinterpret_cast<T *>((address + 63) / 64 * 64);
    }
    ~Scratch() { std::free(raw_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    T *operator+(idx i) const { return data_ + i; }

  private:
    void *raw_;
    T *data_;
};

} // namespace
