// The places of a decoder's buffers inside a BufferSet; the order of the specs.
#pragma once

#include "model/config.h"

namespace lowrank {

// What a block keeps. With QK norm, kSavedQ and kSavedK are the projections before it and
// attention's operands are made again; without, they are what attention read.
enum SavedBuffer : size_t {
  kSavedRstd1,
  kSavedQ,
  kSavedK,
  kSavedV,
  kSavedRstdQ,
  kSavedRstdK,
  kSavedAttention,
  kSavedLse,
  kSavedMid,
  kSavedRstd2,
  kSavedGate,
  kSavedUp,
  kSavedXa,  // one per linear
  kSavedCount = kSavedXa + kLinearCount
};

// Shared by all blocks and the head.
enum ScratchBuffer : size_t {
  kScratchNorm,       // [T, H] a norm's output
  kScratchAct,        // [T, I] the gated activation's product
  kScratchQ,          // [T, heads * D] attention's queries (QK norm, generation)
  kScratchK,          // [T, kv_heads * D]
  kScratchRstd,       // [T] of the final norm
  kScratchWorkspace,  // the largest workspace of any op
  // backward
  kScratchDNorm,  // [T, H]
  kScratchDAct,   // [T, I]
  kScratchDQ,     // [T, heads * D] also attention's output gradient
  kScratchDK,
  kScratchDV,
  // generation
  kScratchV,
  kScratchAttention,
  kScratchMid,
  kScratchGate,
  kScratchUp,
  kScratchXa,  // the widest linear's
  kScratchCount
};

}  // namespace lowrank
