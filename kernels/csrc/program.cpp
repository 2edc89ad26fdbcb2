#include "program.h"

#include <chrono>
#include <stdexcept>
#include <string>

namespace quire {

void Program::check(const StepInputs& step) const {
  if (step.tokens < 0 || step.tokens > capacity()) {
    throw std::invalid_argument("a program for " + std::to_string(capacity()) + " tokens got " +
                                std::to_string(step.tokens));
  }
}

void Program::run(const StepInputs& step) const {
  check(step);
  for (const NamedOp& op : ops_) op.run(step);
}

void Program::profile(const StepInputs& step,
                      const std::function<void(const char*, double)>& report) const {
  check(step);
  for (const NamedOp& op : ops_) {
    const auto begin = std::chrono::steady_clock::now();
    op.run(step);
    report(op.name, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
}

}  // namespace quire
