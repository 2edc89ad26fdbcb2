// A forward pass recorded op by op, and replayed with one call.
//
// A step of a small model is a few hundred ops of some microseconds each; calling each from Python would
// cost as much again. So the pass runs once in Python while a Program listens: each op leaves itself, with
// the addresses of its operands, instead of computing. Those addresses are of buffers that the recorder on
// the Python side keeps for the Program's lifetime, large enough for `capacity` tokens. A replay runs the
// ops in order on the first `tokens` rows of the same buffers, and takes what differs from step to step
// from its StepInputs.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace quire {

// AttentionMetadata (kernels/types.py), and the tokens.
struct StepInputs {
  const std::int64_t *input_ids, *positions, *slots;              // [tokens]
  const std::int32_t *query_start, *seq_lens, *block_tables;      // [num_seqs + 1], [num_seqs], [num_seqs, width]
  std::int64_t tokens, table_width;
  int num_seqs;
};

class Program {
 public:
  using Op = std::function<void(const StepInputs&)>;

  // `inputs` are those of the recorded step, of `inputs.tokens` tokens. Ops that take one of them are known by
  // its address.
  explicit Program(const StepInputs& inputs) : inputs_(inputs) {}

  // `name` outlives the program.
  void add(const char* name, Op op) { ops_.push_back({name, std::move(op)}); }
  std::int64_t capacity() const { return inputs_.tokens; }
  const StepInputs& inputs() const { return inputs_; }
  std::size_t num_ops() const { return ops_.size(); }

  // Throws std::invalid_argument for more tokens than the capacity, and what the ops throw.
  void run(const StepInputs& step) const;

  // The same; calls report(name, seconds) after each op.
  void profile(const StepInputs& step, const std::function<void(const char*, double)>& report) const;

 private:
  struct NamedOp {
    const char* name;
    Op run;
  };

  void check(const StepInputs& step) const;

  StepInputs inputs_;
  std::vector<NamedOp> ops_;
};

}  // namespace quire
