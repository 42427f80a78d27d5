"""The engine through its C library (native/lowrank.h), for comparison with other stacks.

Built in build/parity; LOWRANK_LIBRARY names a library to take instead.
"""

import ctypes
import os
import pathlib
import subprocess

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "parity"


def _build(target):
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    options = ["-DLOWRANK_C_LIBRARY=ON", "-DLOWRANK_PARITY=ON"]
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, *options], **quiet)
    subprocess.run(["cmake", "--build", BUILD, "-j2", "--target", target], **quiet)


def _library():
    path = os.environ.get("LOWRANK_LIBRARY")
    if not path:
        _build("lowrank")
        path = BUILD / "native" / "c_abi" / "liblowrank.so"
    library = ctypes.CDLL(str(path))
    for name in ("", "_where", "_hint"):
        getattr(library, "lowrank_last_error" + name).restype = ctypes.c_char_p
    return library


LIBRARY = _library()


class ModelOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("compute", ctypes.c_int32),
                ("quantization", ctypes.c_int32), ("trainable", ctypes.c_int32),
                ("max_length", ctypes.c_int32)]  # fmt: skip


class LoraOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("r", ctypes.c_int32),
                ("use_rslora", ctypes.c_int32), ("lora_alpha", ctypes.c_double),
                ("lora_dropout", ctypes.c_double),
                ("target_modules", ctypes.POINTER(ctypes.c_char_p)),
                ("target_module_count", ctypes.c_size_t), ("target_pattern", ctypes.c_char_p),
                ("modules_to_save", ctypes.POINTER(ctypes.c_char_p)),
                ("modules_to_save_count", ctypes.c_size_t),
                ("rank_pattern_names", ctypes.c_void_p), ("rank_pattern_values", ctypes.c_void_p),
                ("rank_pattern_count", ctypes.c_size_t),
                ("alpha_pattern_names", ctypes.c_void_p), ("alpha_pattern_values", ctypes.c_void_p),
                ("alpha_pattern_count", ctypes.c_size_t)]  # fmt: skip


class SessionOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("optimizer", ctypes.c_int32),
                ("checkpointing", ctypes.c_int32), ("beta1", ctypes.c_double),
                ("beta2", ctypes.c_double), ("eps", ctypes.c_double),
                ("weight_decay", ctypes.c_float), ("max_grad_norm", ctypes.c_float),
                ("seed", ctypes.c_uint64), ("max_tokens", ctypes.c_int64),
                ("max_labels", ctypes.c_int64), ("memory_budget", ctypes.c_uint64)]  # fmt: skip


class MicroBatch(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("input_ids", ctypes.POINTER(ctypes.c_int32)),
                ("labels", ctypes.POINTER(ctypes.c_int32)), ("weights", ctypes.c_void_p),
                ("tokens", ctypes.c_int64), ("document_offsets", ctypes.POINTER(ctypes.c_int32)),
                ("documents", ctypes.c_int32)]  # fmt: skip


class StepResult(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("loss", ctypes.c_double),
                ("grad_norm", ctypes.c_double), ("weight", ctypes.c_double),
                ("seconds", ctypes.c_double), ("tokens", ctypes.c_int64),
                ("label_tokens", ctypes.c_int64), ("correct", ctypes.c_int64),
                ("aborted", ctypes.c_int32)]  # fmt: skip


def call(name, *arguments):
    if getattr(LIBRARY, name)(*arguments) == 0:
        return
    parts = [getattr(LIBRARY, "lowrank_last_error" + part)() for part in ("", "_where", "_hint")]
    raise RuntimeError(" | ".join(part.decode() for part in parts if part))


def _handle(name, *arguments):
    handle = ctypes.c_void_p()
    call(name, *arguments, ctypes.byref(handle))
    return handle


def merge(model_folder, adapter_folder, output_folder):
    folders = [str(folder).encode() for folder in (model_folder, adapter_folder, output_folder)]
    call("lowrank_merge", _handle("lowrank_device_open", None), *folders, None, None, None)


def nf4_codes(source, target):
    """What native/model would hold of `x` in the file `source`, see nf4_codes.cc."""
    _build("nf4_codes")
    subprocess.run([BUILD / "test" / "parity" / "nf4_codes", source, target], check=True)


def _strings(values):
    return (ctypes.c_char_p * len(values))(*[value.encode() for value in values])


class Model:
    """A folder on the CPU. Handles live as long as the process: these are short scripts."""

    def __init__(self, folder, quantization=0):
        self.device = _handle("lowrank_device_open", None)
        options = ModelOptions()
        LIBRARY.lowrank_model_options_init(ctypes.byref(options))
        options.quantization = quantization
        self.handle = _handle("lowrank_model_load", self.device, str(folder).encode(),
                              ctypes.byref(options), None, None, None)

    def create_adapter(self, targets, saved=(), seed=1, **fields):
        options = LoraOptions()
        LIBRARY.lowrank_lora_options_init(ctypes.byref(options))
        options.target_modules, options.target_module_count = _strings(targets), len(targets)
        options.modules_to_save, options.modules_to_save_count = _strings(saved), len(saved)
        for name, value in fields.items():
            setattr(options, name, value)
        return _handle("lowrank_adapter_create", self.handle, ctypes.byref(options),
                       ctypes.c_uint64(seed))

    def load_adapter(self, folder):
        return _handle("lowrank_adapter_load", self.handle, str(folder).encode())

    def save_adapter(self, adapter, folder):
        call("lowrank_adapter_save", adapter, str(folder).encode(), None)

    def train(self, adapter, ids, steps, learning_rate):
        """Losses of steps on one document in which every token is a label."""
        options = SessionOptions()
        LIBRARY.lowrank_session_options_init(ctypes.byref(options))
        options.max_tokens = len(ids)
        session = _handle("lowrank_session_create", self.handle, adapter, ctypes.byref(options))
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        offsets = (ctypes.c_int32 * 2)(0, len(ids))
        batch = MicroBatch(ctypes.sizeof(MicroBatch), tokens, tokens, None, len(ids), offsets, 1)
        result = StepResult(ctypes.sizeof(StepResult))
        losses = []
        for step in range(1, steps + 1):
            call("lowrank_session_step", session, ctypes.byref(batch), ctypes.c_size_t(1),
                 ctypes.c_float(learning_rate), ctypes.c_int64(step), None, ctypes.byref(result))
            losses.append(result.loss)
        LIBRARY.lowrank_session_free(session)
        return losses

    def last_logits(self, ids, vocabulary, adapter=None):
        """Logits behind the last token."""
        generator = _handle("lowrank_generator_create", self.handle, adapter, len(ids) + 1)
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        call("lowrank_generator_prefill", generator, tokens, ctypes.c_size_t(len(ids)), None)
        logits = numpy.zeros(vocabulary, dtype=numpy.float32)
        call("lowrank_generator_logits", generator, logits.ctypes.data_as(ctypes.c_void_p),
             ctypes.c_size_t(vocabulary))
        LIBRARY.lowrank_generator_free(generator)
        return logits
