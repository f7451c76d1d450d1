// Which instruction set runs: the best one the machine has, or the one FUTUREFILL_CPU_ISA names.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace futurefill {

#define FF_DECLARE_STREAMS(isa)                                   \
  namespace isa {                                                 \
  void short_range_step(const StepParams&, int64_t, int64_t);     \
  void future_fill(const FillParams&, int64_t, int64_t);          \
  int64_t fill_stages(const StageParams&);                        \
  void fill_stage(const StageParams&, int64_t, int64_t, int64_t); \
  }

#define FF_DECLARE(isa)                                                    \
  FF_DECLARE_STREAMS(isa)                                                  \
  namespace isa {                                                          \
  void offline_conv(const ConvParams&, int64_t, int64_t);                  \
  void prompt_spectrum(const SpectrumParams&, int64_t, int64_t);           \
  void prompt_block(const PromptParams&, int64_t, int64_t);                \
  void dense(const DenseParams&, int64_t, int64_t);                        \
  void rms_norm(Scalar, const void*, void*, const void*, int64_t, double); \
  void short_conv(const ShortConvParams&);                                 \
  void gate(Scalar, const void*, const void*, void*, int64_t, bool);       \
  void widen_row(Scalar, const void*, void*, int64_t, bool);               \
  void narrow_row(Scalar, const void*, void*, int64_t);                    \
  }

FF_DECLARE(portable)
#ifdef FUTUREFILL_X86
FF_DECLARE(avx2)
FF_DECLARE(avx512)
FF_DECLARE_STREAMS(avx2_narrow)
FF_DECLARE_STREAMS(avx512_narrow)
#endif

namespace {

#define FF_TOKEN(isa, bytes)                                  \
  {bytes / 2,       bytes / 4, isa::dense,     isa::rms_norm, \
   isa::short_conv, isa::gate, isa::widen_row, isa::narrow_row}
#define FF_STREAMS(isa, bytes) \
  {bytes / 4, bytes / 8, isa::short_range_step, isa::future_fill, isa::fill_stages, isa::fill_stage}
#define FF_ENGINE(isa, bytes, narrow) \
  {#isa,                              \
   bytes / 4,                         \
   bytes / 8,                         \
   FF_STREAMS(isa, bytes),            \
   FF_STREAMS(narrow, 16),            \
   isa::offline_conv,                 \
   isa::prompt_spectrum,              \
   isa::prompt_block,                 \
   FF_TOKEN(isa, bytes)}

// best first
const Engine kEngines[] = {
#ifdef FUTUREFILL_X86
    FF_ENGINE(avx512, 64, avx512_narrow),
    FF_ENGINE(avx2, 32, avx2_narrow),
#endif
    FF_ENGINE(portable, 16, portable),
};

bool supported(const Engine& e) {
#ifdef FUTUREFILL_X86
  __builtin_cpu_init();
  if (!std::strcmp(e.name, "avx512")) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  }
  if (!std::strcmp(e.name, "avx2")) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
#endif
  return !std::strcmp(e.name, "portable");
}

const Engine& choose() {
  const char* forced = std::getenv("FUTUREFILL_CPU_ISA");
  std::string built;
  for (const Engine& e : kEngines) {
    built += std::string(built.empty() ? "" : ", ") + e.name;
    if (forced && *forced) {
      if (std::strcmp(forced, e.name)) continue;
      if (supported(e)) return e;
      throw std::runtime_error("FUTUREFILL_CPU_ISA=" + std::string(forced) +
                               ": this machine does not have that instruction set");
    }
    if (supported(e)) return e;
  }
  throw std::runtime_error("FUTUREFILL_CPU_ISA: expected one of " + built + ", got " +
                           std::string(forced ? forced : ""));
}

}  // namespace

const Engine& engine() {
  static const Engine& chosen = choose();
  return chosen;
}

}  // namespace futurefill
