// One reader per kernel: checks the JavaScript arguments and sets KernelCall::build. Shapes that
// the op's own wrapper (native/ops) checks aren't checked twice.
#pragma once

#include "node/kernels/kernel_call.h"

namespace lowrank::node {

using ReadKernel = void (*)(OptionsReader& args, KernelCall& call);

void read_linear_forward(OptionsReader& args, KernelCall& call);
void read_linear_backward(OptionsReader& args, KernelCall& call);
void read_rms_norm_forward(OptionsReader& args, KernelCall& call);
void read_rms_norm_backward(OptionsReader& args, KernelCall& call);
void read_rope(OptionsReader& args, KernelCall& call);
void read_gated_activation_forward(OptionsReader& args, KernelCall& call);
void read_gated_activation_backward(OptionsReader& args, KernelCall& call);
void read_attention_forward(OptionsReader& args, KernelCall& call);
void read_attention_backward(OptionsReader& args, KernelCall& call);
void read_embedding_forward(OptionsReader& args, KernelCall& call);
void read_embedding_backward(OptionsReader& args, KernelCall& call);
void read_head_loss(OptionsReader& args, KernelCall& call);
void read_adamw(OptionsReader& args, KernelCall& call);
void read_squared_norm(OptionsReader& args, KernelCall& call);
void read_cast(OptionsReader& args, KernelCall& call);
void read_quantize_nf4(OptionsReader& args, KernelCall& call);
void read_quantize_absmax(OptionsReader& args, KernelCall& call);
void read_dequantize(OptionsReader& args, KernelCall& call);

}  // namespace lowrank::node
