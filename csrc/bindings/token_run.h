// Tokens one after the other of all rows of a stream of one layer.
#pragma once

#include "bindings/bound_step.h"
#include "bindings/state_view.h"

namespace futurefill {

// With feedback u has one token, the first, and y are the tokens after it.
struct TokenRun {
  Block u;
  const Block *pre, *post;  // or null
  Block y;
  int64_t n;  // tokens, at least 1
  Feedback feedback;
};

// (B, D, n) of tokens (n, B, D) that lie together.
inline Block block_of_tokens(const void* tokens, int64_t batch, int64_t channels) {
  return {tokens, {channels, 1, batch * channels}};
}

// Takes them from `positions` (B,) on, which advance. step: of the layer, without inputs and
// outputs. Where it throws the positions have not moved, but slots and outputs may have changed.
void run_tokens(const StepParams& step, const FillState& fills, int64_t* positions,
                const TokenRun& run);

}  // namespace futurefill
