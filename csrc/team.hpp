// A team of threads that share out tasks.
//
// Why not OpenMP: its parallel regions end with a barrier at which every thread must arrive, so that one whose core is
// busy with something else, as on a laptop in class, holds up all of them. Here a region ends when its tasks are done:
// whoever comes late finds nothing left to do.
#pragma once

#include <cstddef>

namespace tinydiff {

// Threads that may work on tasks, the caller among them. At first as many as OMP_NUM_THREADS says, else as there are
// cores.
int team_size();
void set_team_size(int n);

// Runs task(context, i, thread) once for every i in [0, tasks), in any order, with `thread` in [0, threads) for those
// that run at the same time. Returns when all are done. A second caller meanwhile does its tasks alone.
void run_tasks(std::ptrdiff_t tasks, int threads,
               void (*task)(const void *context, std::ptrdiff_t i, std::ptrdiff_t thread), const void *context);

} // namespace tinydiff
