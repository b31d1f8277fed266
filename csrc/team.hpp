// Threads that share out tasks: OpenMP's, or a team of our own where there is no OpenMP or somebody asks for it.
//
// The two differ in how a parallel region ends. OpenMP's ends with a barrier at which every thread must arrive, so that
// one whose core is busy with something else, as on a laptop in class, holds up all of them. The team's ends when its
// tasks are done: whoever comes late finds nothing left to do.
#pragma once

#include <cstddef>

namespace tinydiff {

enum class Pool { team, openmp };

constexpr int most_threads = 1024;

bool has_openmp(); // whether this build has it
bool is_forked();  // whether this process was forked from one that had loaded this
// Whose threads run the tasks; OpenMP's at first, where the build has it. A forked child must use the team, and does:
// OpenMP's threads stay behind in the parent, and some OpenMP libraries would wait for them for ever.
Pool pool();
void set_pool(Pool pool);

// Threads that may work on tasks, the caller among them; 1 at first. Where the system refuses to start as many, fewer
// do the work.
int team_size();
void set_team_size(int n);

// Runs task(context, i, thread) once for every i in [0, tasks), in any order, with `thread` in [0, threads) for those
// that run at the same time. Returns when all are done. A second caller meanwhile, and a task that calls this itself,
// do their tasks alone.
void run_tasks(std::ptrdiff_t tasks, int threads,
               void (*task)(const void *context, std::ptrdiff_t i, std::ptrdiff_t thread), const void *context);

} // namespace tinydiff
