// Sharing out independent tasks among threads, and scratch memory for them.
//
// Results never depend on which thread runs a task or on how many there are. Most kernels cut their work into tasks by
// the shape of the data alone, and add up sums across tasks in task order afterwards; where the number of tasks follows
// the threads, every element is summed in the same order however the work is cut.
#pragma once

#include "simd.hpp"
#include "team.hpp"

#include <cstdlib>
#include <new>

namespace {

inline idx thread_count() { return tinydiff::team_size(); }

// Element operations: below the first, handing out tasks costs more than it saves; small tasks are handed out together
// until they make up the second.
constexpr idx worth_sharing = 1 << 15, worth_handing_out = 1 << 16;

// Runs task(i, thread) for i in [0, tasks), thread in [0, threads); `cost` is a rough count of element operations per
// task.
template <class Task> inline void parallel_for(idx tasks, idx cost, const Task &task, idx threads = thread_count()) {
    if (tasks < 2 || tasks * cost <= worth_sharing) {
        for (idx i = 0; i < tasks; ++i)
            task(i, idx(0));
        return;
    }
    const idx together = cost < worth_handing_out ? worth_handing_out / cost : 1;
    const auto some = [&](idx part, idx thread) {
        for (idx i = part * together; i < tasks && i < (part + 1) * together; ++i)
            task(i, thread);
    };
    tinydiff::run_tasks(
        (tasks + together - 1) / together, static_cast<int>(threads),
        [](const void *context, idx i, idx thread) { (*static_cast<const decltype(some) *>(context))(i, thread); },
        &some);
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
