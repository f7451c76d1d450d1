// How many threads the CPU ops may use.
#pragma once

#include <cstdint>

namespace futurefill {

// torch.set_num_threads, or FUTUREFILL_NUM_THREADS where that is set and less. Throws
// std::runtime_error when it is not a number of at least 1.
int64_t thread_count();

}  // namespace futurefill
