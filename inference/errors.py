"""Errors of the engine. Each has a stable `code`, which is sent to clients, and says whether a retry can
help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAX_QUOTED = 400  # characters


class InferenceError(Exception):
    """Base class of the engine's errors; `code` and `is_retryable` are sent to the client."""

    code = "engine_error"
    is_retryable = False


class InvalidRequestError(InferenceError):
    code = "invalid_request"


class ContextLengthExceededError(InferenceError):
    """The prompt fills the context, without room for a new token."""

    code = "context_length_exceeded"

    def __init__(self, num_prompt_tokens: int, max_context: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.max_context = max_context
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens, the context holds {max_context}, answer included; "
            "shorten the prompt"
        )


class OverloadedError(InferenceError):
    """The waiting queue is full; nothing was charged or started."""

    code = "overloaded"
    is_retryable = True

    def __init__(self, num_requests: int, num_tokens: int | None = None) -> None:
        self.num_requests = num_requests
        self.num_tokens = num_tokens
        size = "" if num_tokens is None else f" with {num_tokens} prompt tokens"
        super().__init__(f"{num_requests} requests{size} are waiting already; try again shortly")


class DrainingError(InferenceError):
    """The engine finishes its requests and then ends; nothing was charged or started. Its code is that of a
    full queue: the engine has not failed, and another one may take the request.
    """

    code = OverloadedError.code
    is_retryable = True

    def __init__(self) -> None:
        super().__init__("the engine is about to stop and takes no further requests; try again shortly")


class DeadlineExceededError(InferenceError):
    """The request's deadline has passed. A retry may succeed when the engine is less busy."""

    code = "deadline_exceeded"
    is_retryable = True

    def __init__(self, num_answer_tokens: int) -> None:
        self.num_answer_tokens = num_answer_tokens
        super().__init__(f"the deadline has passed; {num_answer_tokens} tokens had been generated")


class SocketTakenError(InferenceError):
    """Another engine uses this socket path, or is starting on it."""

    code = "socket_taken"

    def __init__(self, socket_path: Path, pid: str) -> None:
        self.socket_path = socket_path
        self.pid = pid
        super().__init__(
            f"process {pid or 'unknown'} is the engine on {socket_path} already; clients can share it, and a "
            "second engine needs another --socket"
        )


class NumericalError(InferenceError):
    """The model produced NaN or infinity, usually because of the adapter."""

    code = "numerical_error"

    def __init__(self, adapter_digest: str | None) -> None:
        self.adapter_digest = adapter_digest
        super().__init__(f"the model produced NaN or infinity under {adapter_digest or 'the base model'}")


class InvalidSchemaError(InferenceError):
    """A constraint on the answer was refused. `where` is a JSON pointer into its schema, or names a field."""

    code = "invalid_schema"

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"schema refused at {where}: {reason}")


class InvalidToolSchemaError(InvalidSchemaError):
    """The schema of a function's parameters was refused. `where` is the function's name, and a JSON pointer
    into its schema.
    """

    code = "invalid_tool_schema"


class UnsupportedReasoningError(InferenceError):
    """The request has a reasoning effort, and the chat template has no place for it."""

    code = "unsupported_reasoning"

    def __init__(self) -> None:
        super().__init__("this model's chat template has no reasoning effort; omit it")


class GrammarTooComplexError(InferenceError):
    """A compiled constraint exceeded its limits during an answer."""

    code = "grammar_too_complex"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the constraint is too complex to follow: {reason}; simplify its patterns")


class UnsupportedModelError(InferenceError):
    code = "unsupported_model"


class ModelNotFoundError(InferenceError):
    code = "model_not_found"


class KernelBuildError(InferenceError):
    code = "kernels_unavailable"


class AdapterError(InferenceError):
    """An adapter folder was refused. `where` names the file, key or tensor at fault.

    Both texts may quote untrusted bytes: they are truncated, and can always be encoded as UTF-8.
    """

    code = "adapter_refused"

    def __init__(self, where: str, reason: str) -> None:
        self.where = _quotable(where)
        self.reason = _quotable(reason)
        super().__init__(f"adapter refused at {self.where}: {self.reason}")


class AdapterFileMissingError(AdapterError):
    code = "adapter_file_missing"


class AdapterIrregularFileError(AdapterError):
    """The folder contains a link, pipe, device or socket; only regular files are read."""

    code = "adapter_irregular_file"


class AdapterChangedError(AdapterError):
    """A file changed its length while it was being read."""

    code = "adapter_changed"
    is_retryable = True


class AdapterPickleError(AdapterError):
    code = "adapter_pickle"


class AdapterConfigError(AdapterError):
    """adapter_config.json is invalid: no JSON, a duplicate key, a value of the wrong type."""

    code = "adapter_config"


class AdapterRemoteCodeError(AdapterError):
    """The configuration names code for readers to import."""

    code = "adapter_remote_code"


class AdapterPatternError(AdapterError):
    """A rank or alpha pattern is more than a module name, or there are too many patterns."""

    code = "adapter_pattern"


class AdapterCorruptError(AdapterError):
    """adapter_model.safetensors is truncated, or not a safetensors file."""

    code = "adapter_corrupt"


class AdapterHeaderError(AdapterCorruptError):
    """The header of adapter_model.safetensors is inconsistent, or does not match the file's length."""

    code = "adapter_header"


class AdapterTooManyTensorsError(AdapterError):
    """More tensors than the base model's linear layers can use."""

    code = "adapter_too_many_tensors"


class AdapterUnsupportedError(AdapterError):
    """A kind of adapter, or a number format, that this engine does not serve."""

    code = "adapter_unsupported"


class AdapterBlendError(AdapterError):
    """The adapters of a blend cannot be combined."""

    code = "adapter_blend"


class AdapterNotInvokedError(AdapterError):
    """The prompt lacks the tokens that activate the adapter."""

    code = "adapter_not_invoked"


class AdapterBiasError(AdapterError):
    code = "adapter_bias"


class AdapterModulesToSaveError(AdapterError):
    code = "adapter_modules_to_save"


class AdapterTargetError(AdapterError):
    """A target that is not a linear layer of the decoder: embeddings, head, norms, unknown names."""

    code = "adapter_target"


class AdapterWrongBaseError(AdapterError):
    code = "adapter_wrong_base"


class AdapterShapeError(AdapterError):
    code = "adapter_shape"


class AdapterRankError(AdapterError):
    code = "adapter_rank"


class AdapterNotFiniteError(AdapterError):
    code = "adapter_not_finite"


class AdapterTooLargeError(AdapterError):
    code = "adapter_too_large"


class AdapterDigestMismatchError(AdapterError):
    """The folder's content does not match the requested digest."""

    code = "adapter_digest_mismatch"

    def __init__(self, path: str, expected: str, actual: str) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(path, f"its digest is {actual}, requested was {expected}; fetch the adapter again")


def _quotable(text: str) -> str:
    truncated = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
    return truncated.encode(errors="backslashreplace").decode()
