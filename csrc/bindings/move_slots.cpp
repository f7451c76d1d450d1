#include "bindings/move_slots.h"

#include <exception>
#include <string>

#include "bindings/threads.h"
#include "infra/move_slots.h"
#include "infra/parallel.h"

namespace futurefill {

static_assert(sizeof(SlotRange) == 9 * sizeof(int64_t) && sizeof(RowMove) == 3 * sizeof(int64_t));

}  // namespace futurefill

const char* futurefill_move_slots(const int64_t* ranges, int64_t n_ranges, const int64_t* moves,
                                  int64_t n_moves) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  try {
    run_move_jobs({reinterpret_cast<const SlotRange*>(ranges), n_ranges,
                   reinterpret_cast<const RowMove*>(moves), n_moves},
                  thread_count());
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}
