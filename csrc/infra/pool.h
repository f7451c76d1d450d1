// Worker threads that stay: they spin briefly for the next piece of work, then sleep.
#pragma once

#include <cstdint>

namespace futurefill {

using Piece = void (*)(const void* context, int64_t index);

// Runs piece(context, i) for i = 0 .. count - 1, the first on the calling thread, the others each
// on a worker, or on the calling thread where the worker is late. One call at a time has the
// workers: a call that finds them busy, from another thread, runs its pieces itself, and so does
// one for which the system starts no threads. Rethrows an exception of a piece after all have
// ended. A forked child starts with no workers and makes its own.
void run_pieces(int64_t count, Piece piece, const void* context);

}  // namespace futurefill
