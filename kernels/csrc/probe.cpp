// Measures the machine with all threads.
#include "ops.h"
#include "thread_pool.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace quire {

double probe(const std::string& kind, std::int64_t amount) {
  const KernelTable& table = kernels();
  const auto timed = [](std::int64_t tasks, const auto& body) {
    const auto begin = std::chrono::steady_clock::now();
    parallel_for(tasks, 1 << 20, body);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  if (kind == "read") {
    constexpr std::int64_t kBlock = 1 << 20;
    const std::unique_ptr<char[]> data(new char[static_cast<std::size_t>(amount) + 8192]);
    std::memset(data.get(), 0, static_cast<std::size_t>(amount) + 8192);
    return timed(amount / kBlock, [&](std::int64_t i) { table.probe_read(data.get() + i * kBlock, kBlock); });
  }
  const std::int64_t tasks = 16 * num_threads();
  if (kind == "int8") return timed(tasks, [&](std::int64_t) { table.probe_int8(amount / tasks); });
  if (kind != "float" && kind != "pair") throw std::invalid_argument("probe: unknown kind '" + kind + "'");
  const DotKind pair = table.pair_dot ? DotKind::pair_dot : DotKind::pair_panel;
  const DotKind dot = kind == "float" ? DotKind::float_panel : pair;
  return timed(tasks, [&](std::int64_t) { table.probe_dot(dot, amount / tasks); });
}

}  // namespace quire
