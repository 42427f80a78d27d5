# The plug-in's sources without the runtime's: nvcc builds them, and the tests as C++ for the CPU.
set(LOWRANK_CUDA_SOURCES cublaslt.cc device_state.cc plugin.cc)
set(LOWRANK_CUDA_KERNELS attention attention_mma elementwise embedding gemm gemm_cublaslt head_loss layer_norm
                         linear optimizer peak quantization rms_norm)
list(TRANSFORM LOWRANK_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM LOWRANK_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/launch/)
list(TRANSFORM LOWRANK_CUDA_KERNELS APPEND .cu)
