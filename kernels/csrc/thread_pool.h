// The kernels' own threads.
//
// A loop's tasks are handed out one by one through a shared counter, so a thread that wakes late (or that
// the operating system has put aside) delays nobody: the others take its tasks. This is sound because no
// kernel's result depends on who computes which task.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// Threads that a loop uses, the calling one included. By default, the cores this process may run on.
int num_threads();

// Ends the workers; the next loop starts `count - 1` new ones. Throws std::invalid_argument below 1.
void set_num_threads(int count);

// Calls body(context, task) for every task in [0, tasks), on the calling thread and the workers, and
// returns when all are done. The first exception that a task throws is thrown here; tasks not yet begun
// are then skipped. A loop started while another runs (from another thread, or from within a task) runs
// on its calling thread alone.
void run_tasks(std::int64_t tasks, void (*body)(const void*, std::int64_t), const void* context);

// The same for a callable. `work` estimates a task's cost in elements; loops too small to repay waking
// another core stay on the calling thread.
template <class F>
void parallel_for(std::int64_t tasks, std::int64_t work, const F& body) {
  if (tasks * work < 16384 || tasks == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  const auto call = [](const void* context, std::int64_t task) { (*static_cast<const F*>(context))(task); };
  run_tasks(tasks, call, &body);
}

// A 64-byte aligned buffer that belongs to the calling thread and lives as long as the thread. Each `slot`
// (0..3) is one buffer; asking for more bytes than before loses its contents.
void* thread_scratch(int slot, std::size_t bytes);

}  // namespace quire
