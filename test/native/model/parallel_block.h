#pragma once

#include "model/block.h"

namespace lowrank::test {

extern const BlockKind kParallelBlock;

}  // namespace lowrank::test
