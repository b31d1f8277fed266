#include "team.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
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
    std::mutex in_use; // held while there is a job, on whichever pool
    std::mutex sleep;
    std::condition_variable wake;
    Job job;
    std::atomic<unsigned> jobs{0};       // counts them: a helper works when it sees a new one
    std::atomic<bool> open{false};       // whether helpers may still join this job
    std::atomic<int> inside{0};          // helpers looking at it
    std::atomic<std::ptrdiff_t> next{0}; // task to be handed out
    std::atomic<int> sleeping{0};
    int started = 0;      // helpers
    bool refused = false; // whether the system would not start another

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

    // Starts what is missing of so many helpers. Asks a system that refused only once.
    void start(int helpers) {
        try {
            for (; started < helpers && !refused; ++started)
                std::thread(work, this, started + 1).detach();
        } catch (const std::system_error &) {
            refused = true;
        }
    }

    void run(Job asked) {
        start(asked.helpers);
        job = asked;
        next = 0;
        open = true;
        ++jobs;
        if (sleeping.load() > 0) {
            {
                const std::lock_guard<std::mutex> about_to_sleep(sleep);
            } // has seen the new job, or is woken
            wake.notify_all();
        }
        take_tasks(0);
        open = false;
        while (inside.load() > 0)
            pause_briefly();
    }
};

#ifdef _OPENMP
// How many threads, the caller among them, the system lets us have at the same time: OpenMP ends the whole program when
// it is refused one.
int granted(int threads) {
    std::mutex gate;
    std::vector<std::thread> started;
    {
        const std::lock_guard<std::mutex> closed(gate); // keeps those that have started
        try {
            started.reserve(static_cast<std::size_t>(threads));
            for (int i = 1; i < threads; ++i)
                started.emplace_back([&gate] { const std::lock_guard<std::mutex> passed(gate); });
        } catch (const std::system_error &) { // as many as there are, then
        }
    }
    for (std::thread &thread : started)
        thread.join();
    return static_cast<int>(started.size()) + 1;
}

void run_on_openmp(Job job) {
    thread_local int asked = 1, had = 1; // each caller has helpers of its own
    const int threads = job.helpers + 1;
    if (threads > asked) {
        had = granted(threads);
        asked = threads;
    }
    const int size = threads < had ? threads : had;
#pragma omp parallel for num_threads(size) schedule(dynamic, 1)
    for (std::ptrdiff_t i = 0; i < job.tasks; ++i)
        job.task(job.context, i, omp_get_thread_num());
}
constexpr Pool first_pool = Pool::openmp;
bool nested() { return omp_in_parallel() != 0; }
#else
constexpr Pool first_pool = Pool::team;
bool nested() { return false; }
#endif

std::atomic<int> size{1};
std::atomic<bool> forked{false};
std::atomic<Pool> chosen{first_pool};
std::atomic<Team *> team{new Team};
thread_local bool busy = false; // this thread is running a task

#ifndef _WIN32
// A forked child has only the thread that forked: it needs helpers of its own.
const int prepared = pthread_atfork(nullptr, nullptr, [] {
    team = new Team;
    chosen = Pool::team;
    forked = true;
});
#endif

} // namespace

bool has_openmp() { return first_pool == Pool::openmp; }
bool is_forked() { return forked; }
Pool pool() { return chosen; }
void set_pool(Pool pool) { chosen = pool; }

int team_size() { return size; }
void set_team_size(int n) { size = n; }

void run_tasks(std::ptrdiff_t tasks, int threads, void (*task)(const void *, std::ptrdiff_t, std::ptrdiff_t),
               const void *context) {
    Team &t = *team.load();
    std::unique_lock<std::mutex> mine(t.in_use, std::defer_lock);
    if (threads < 2 || tasks < 2 || busy || nested() || !mine.try_lock()) {
        for (std::ptrdiff_t i = 0; i < tasks; ++i)
            task(context, i, 0);
        return;
    }
    const Job job{task, context, tasks, threads - 1};
    busy = true;
#ifdef _OPENMP
    if (chosen.load() == Pool::openmp)
        run_on_openmp(job);
    else
#endif
        t.run(job);
    busy = false;
}

} // namespace tinydiff
