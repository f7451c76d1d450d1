// The future fill of a level with slack, cut into stages that are spread over many steps.
#include "fill_tree.h"
#include "scratch.h"

namespace futurefill {
namespace FF_ISA {

namespace {

constexpr int kNodeLog = 3;  // a node has 2^kNodeLog children

// How a job of a level with slack is cut: whole where it is short, else the root pass, the subtrees
// below it (long ones again in their root pass, subtrees, root pass) and the root pass back.
struct Stages {
  int depth, nodes, per_node;
  bool whole;

  explicit Stages(int log) {
    constexpr int kLongest = 10;  // log2 of the longest transform that is one stage
    whole = log <= kLongest;
    depth = root_depth(log);
    nodes = 1 << depth;
    per_node = log - depth <= kLongest ? 1 : (1 << kNodeLog) + 2;
  }

  int64_t count() const { return whole ? 1 : 2 + int64_t{nodes} * per_node; }
};

// One stage of rows begin .. end of one job.
template <class S, bool kShared>
void tile_stage(const StageParams& s, int64_t job, int64_t stage, int64_t begin, int64_t end) {
  constexpr int64_t W = kLanes<S>;
  const FillParams& a = s.fill;
  const int log = log2_of(a.block);
  const int64_t n = int64_t{1} << log;
  const Stages stages(log);
  const int64_t m = n / stages.nodes, stride = root_stride<S>(m);
  Fill<S> f;
  f.n = n;
  f.kept_slots = a.n_spectra - 1;
  f.spectra = f.next_spectra = spectra_of<S, kShared>(a, job);
  f.n_rows = end - begin;
  f.tables = &twiddle_tables<S>(log);
  const Twiddle<S>& root = f.tables->depth[0][0];
  const bool first = stage == 0, last = stage == stages.count() - 1;
  S* padded = static_cast<S*>(thread_scratch(fill_scratch(0, n, W, 0) * int64_t{sizeof(S)}));
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const RowAt at = a.rows[begin + r];
    const int64_t state = (job / a.tiles * a.batch + at.state) * a.tiles + job % a.tiles;
    const int64_t blocks = at.position / a.block;
    RowSpectra<S>& row = f.rows[r];
    const int64_t work = at.state * s.side_by_side + job % s.side_by_side;
    row.z = static_cast<S*>(s.work) + (work * s.work_rows + s.work_offset) * 2 * W;
    row.kept = static_cast<S*>(a.kept) + (state * a.kept_rows + a.kept_offset) * 2 * W;
    row.blocks = s.products(blocks);
    row.keep = f.kept_slots > 0;
    row.newest = f.kept_slots ? (blocks - 1) % f.kept_slots : 0;
    if (!first) continue;
    const S* inputs = slot_of<S>(a, job, at) - a.block * W;
    if (n != a.block) {
      for (int64_t i = 0; i < a.block * W; ++i) padded[i] = inputs[i];
      for (int64_t i = a.block * W; i < n * W; ++i) padded[i] = 0;
      inputs = padded;
    }
    split_any_root(inputs, inputs, row.z, n, stages.depth, root);
  }
  if (stages.whole) {
    for (int64_t node = 0; node < stages.nodes; ++node) {
      all_rows<S, kShared>(f, node * stride, stages.depth, node, m);
    }
  } else if (!first && !last) {
    const int64_t node = (stage - 1) / stages.per_node, part = (stage - 1) % stages.per_node;
    if (stages.per_node == 1) {
      all_rows<S, kShared>(f, node * stride, stages.depth, node, m);
    } else if (part > 0 && part < stages.per_node - 1) {
      const int64_t child = m >> kNodeLog;
      all_rows<S, kShared>(f, node * stride + (part - 1) * child * 2 * W, stages.depth + kNodeLog,
                           (node << kNodeLog) + part - 1, child);
    } else {
      const Twiddle<S>& t = f.tables->depth[stages.depth][node];
      for (int64_t r = 0; r < f.n_rows; ++r) {
        S* z = f.rows[r].z + node * stride;
        part == 0 ? split_node(z, m, t) : merge_node(z, m, t);
      }
    }
  }
  if (!last) return;
  for (int64_t r = 0; r < f.n_rows; ++r) {
    RowAt at = a.rows[begin + r];
    at.position += s.late;
    const int64_t left = a.length - at.position;
    const int64_t wanted = left < a.block ? left : a.block;
    S* out = slot_of<S>(a, job, at);
    if (wanted == n) {
      merge_any_root(f.rows[r].z, out, out, n, stages.depth, root);
    } else {
      for (int64_t i = 0; i < n * W; ++i) padded[i] = 0;
      merge_any_root(f.rows[r].z, padded, padded, n, stages.depth, root);
      for (int64_t i = 0; i < wanted * W; ++i) out[i] += padded[i];
    }
  }
}

template <class S>
void stage_jobs(const StageParams& s, int64_t stage, int64_t job_begin, int64_t job_end) {
  for (int64_t job = job_begin; job < job_end; ++job) {
    for (int64_t begin = 0; begin < s.fill.n_rows; begin += kMaxRows) {
      const int64_t end = begin + kMaxRows < s.fill.n_rows ? begin + kMaxRows : s.fill.n_rows;
      s.fill.channels_per_filter ? tile_stage<S, true>(s, job, stage, begin, end)
                                 : tile_stage<S, false>(s, job, stage, begin, end);
    }
  }
}

}  // namespace

int64_t fill_stages(const StageParams& s) { return Stages(log2_of(s.fill.block)).count(); }

void fill_stage(const StageParams& s, int64_t stage, int64_t job_begin, int64_t job_end) {
  s.fill.state == Scalar::kFloat64 ? stage_jobs<double>(s, stage, job_begin, job_end)
                                   : stage_jobs<float>(s, stage, job_begin, job_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
