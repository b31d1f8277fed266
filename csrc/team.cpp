#include "team.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tinydiff {

namespace {

constexpr int spins = 20000; // a helper looks for work this often, a few tenths of a millisecond, before it sleeps

inline void pause_briefly() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

struct Job {
    void (*task)(const void *, std::ptrdiff_t, std::ptrdiff_t) = nullptr;
    const void *context = nullptr;
    std::ptrdiff_t tasks = 0;
    int helpers = 0; // how many may join
};

// Lives as long as the process: helpers may be asleep in it when the program ends.
struct Team {
    std::mutex in_use; // held while there is a job
    std::mutex sleep;
    std::condition_variable wake;
    Job job;
    std::atomic<unsigned> jobs{0};       // counts them: a helper works when it sees a new one
    std::atomic<bool> open{false};       // whether helpers may still join this job
    std::atomic<int> inside{0};          // helpers looking at it
    std::atomic<std::ptrdiff_t> next{0}; // task to be handed out
    std::atomic<int> sleeping{0};
    int started = 0; // helpers

    static void work(Team *team, int thread) {
        unsigned seen = 0;
        for (;;) {
            for (int i = 0; i < spins && team->jobs.load() == seen; ++i)
                pause_briefly();
            if (team->jobs.load() == seen) {
                std::unique_lock<std::mutex> lock(team->sleep);
                ++team->sleeping;
                team->wake.wait(lock, [&] { return team->jobs.load() != seen; });
                --team->sleeping;
            }
            seen = team->jobs.load();
            ++team->inside; // before looking: the caller closes the job first, then waits for those inside
            if (team->open.load() && thread <= team->job.helpers)
                team->take_tasks(thread);
            --team->inside;
        }
    }

    void take_tasks(int thread) {
        for (std::ptrdiff_t i = next++; i < job.tasks; i = next++)
            job.task(job.context, i, thread);
    }
};

int threads_asked_for() {
    const char *text = std::getenv("OMP_NUM_THREADS");
    const int asked = text ? std::atoi(text) : 0;
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    return asked > 0 ? asked : (cores > 0 ? cores : 1);
}

std::atomic<int> wanted_size{threads_asked_for()};
Team *team = new Team;

#ifndef _WIN32
// A forked child has only the thread that forked: it needs helpers of its own.
const int prepared = pthread_atfork(nullptr, nullptr, [] { team = new Team; });
#endif

} // namespace

int team_size() { return wanted_size; }
void set_team_size(int n) { wanted_size = n; }

void run_tasks(std::ptrdiff_t tasks, int threads, void (*task)(const void *, std::ptrdiff_t, std::ptrdiff_t),
               const void *context) {
    Team &t = *team;
    std::unique_lock<std::mutex> mine(t.in_use, std::try_to_lock);
    if (!mine || threads < 2 || tasks < 2) {
        for (std::ptrdiff_t i = 0; i < tasks; ++i)
            task(context, i, 0);
        return;
    }
    for (; t.started < threads - 1; ++t.started)
        std::thread(Team::work, &t, t.started + 1).detach();
    t.job = {task, context, tasks, threads - 1};
    t.next = 0;
    t.open = true;
    ++t.jobs;
    if (t.sleeping.load() > 0) {
        {
            const std::lock_guard<std::mutex> about_to_sleep(t.sleep);
        } // has seen the new job, or is woken
        t.wake.notify_all();
    }
    t.take_tasks(0);
    t.open = false;
    while (t.inside.load() > 0)
        pause_briefly();
}

} // namespace tinydiff
