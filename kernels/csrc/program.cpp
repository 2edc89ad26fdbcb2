#include "program.h"

#include <stdexcept>
#include <string>

namespace quire {

void Program::run(const StepInputs& step) const {
  if (step.tokens < 0 || step.tokens > capacity_) {
    throw std::invalid_argument("a program for " + std::to_string(capacity_) + " tokens got " +
                                std::to_string(step.tokens));
  }
  for (const Op& op : ops_) op(step);
}

}  // namespace quire
