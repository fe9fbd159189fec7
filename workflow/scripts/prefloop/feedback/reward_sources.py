"""Rewards, one number per response, from a Python function or from the data set."""

import asyncio
import atexit
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from prefloop.core.costs import Usage
from prefloop.core.errors import InputError, SettingError, is_out_of_memory, short_repr
from prefloop.core.own_functions import describe_exception
from prefloop.core.progress import Progress, WatchedList
from prefloop.core.reward_parameters import COLUMNS, RewardCall, plan_call
from prefloop.core.row_fields import is_finite
from prefloop.feedback.judgments import Messages


class Request(NamedTuple):
    """A response that needs a reward."""

    prompt_id: str
    response_id: int
    messages: Messages
    """The conversation that the response answers."""
    response: str
    component: str = ""
    """Component of the sampler; `chosen` or `rejected` for responses of the data set."""
    columns: Mapping[str, Any] = MappingProxyType({})
    """Other fields of the response and its prompt, by the names in COLUMNS."""

    def __str__(self) -> str:
        return f"prompt {self.prompt_id}, response {self.response_id}"

    def has(self, name: str) -> bool:
        """Whether the column `name` exists for this response."""
        return name in COLUMNS or (isinstance(meta := self.columns.get("meta"), dict) and name in meta)

    def column(self, name: str) -> Any:
        """A column of the response, its prompt or its prompt's `meta`; InputError if it does not exist."""
        if name in ("prompt_id", "response_id", "component"):
            return getattr(self, name)
        if name in COLUMNS:
            return self.columns.get(name, "stop" if name == "finish_reason" else None)
        if not self.has(name):
            raise InputError(
                f"prompt {self.prompt_id}: no {name}, which feedback.function asks for; list the column in prompts.keep"
            )
        return self.columns["meta"][name]


class RewardSource(Protocol):
    """Gives one number per response; larger is better."""

    batch_size: int | None
    """Responses per batch; None if it accepts any number."""
    usage: Usage
    """Total usage so far."""

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """One finite number per response; InputError if this fails."""


RewardFunction = Callable[..., Any]
"""A function of the user, possibly async. It returns one number per response, or one number for a single response."""


@cache
def event_loop() -> asyncio.Runner:
    """The event loop of all async functions of this process.

    Clients and semaphores of a user's module work only in the loop in which they were first used.
    """
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


class FunctionRewards:
    """A `RewardSource` that calls a function. The function's parameters are the names of its inputs (`plan_call`)."""

    batch_size: int | None = None

    def __init__(self, function: RewardFunction, concurrency: int = 8) -> None:
        """Prepare the calls of a function.

        Args:
            function: The function; it may be async.
            concurrency: Maximum number of concurrent calls of an async function of a single response.

        Raises:
            SettingError: The parameters of the function are not supported.
        """
        self.function, self.concurrency, self.usage = function, concurrency, Usage()
        self.name = getattr(function, "__name__", type(function).__name__)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # a builtin whose parameters are unknown
            parameters = [inspect.Parameter("texts", inspect.Parameter.VAR_POSITIONAL)]
        try:
            self.plan: RewardCall = plan_call(parameters)
        except ValueError as error:
            raise SettingError(f"function: {self.name} {error}") from error

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """Call the function, once for all responses or once per response.

        Raises:
            InputError: The function raises an error, or its result is not one finite number per response. Out-of-memory
                errors, such as torch.OutOfMemoryError from a model in the function, are raised unchanged.
        """
        rewards = event_loop().run(self.reward_each(requests)) if self.plan.is_single else self.reward_all(requests)
        return check_rewards(rewards, requests, self.name)

    def reward_all(self, requests: Sequence[Request]) -> Any:
        """The result of one call for all responses. The function's loop over the responses updates the progress bar."""
        try:
            with Progress(self.name, len(requests), "response") as progress:
                return self.call(requests, progress)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            if is_lack_of_memory(error):
                raise
            raise self.failure(error, self.find_culprit(requests)) from error

    def call(self, requests: Sequence[Request], progress: Progress | None = None) -> Any:
        responses = [request.response for request in requests]
        if progress is not None:
            responses = WatchedList(responses)
            responses.progress = progress
        texts = {"prompts": [request.messages for request in requests], "responses": responses}
        columns = {name: [request.column(name) for request in requests] for name in self.plan.columns}
        for name in self.plan.optional:
            if all(request.has(name) for request in requests):
                columns[name] = [request.column(name) for request in requests]
        result = self.apply(texts, columns)
        result = event_loop().run(result_of(result)) if inspect.isawaitable(result) else result
        # A generator runs here, so that its errors are caught. An infinite one is cut.
        return list(islice(result, len(requests) + 1)) if isinstance(result, Iterator) else result

    async def reward_each(self, requests: Sequence[Request]) -> list[Any]:
        """The results of one call per response. An async function has at most `concurrency` calls at a time."""
        slots = asyncio.Semaphore(self.concurrency)
        with Progress(self.name, len(requests), "response") as progress:

            async def reward_in_slot(request: Request) -> Any:
                names = (*self.plan.columns, *filter(request.has, self.plan.optional))
                columns = {name: request.column(name) for name in names}
                async with slots:
                    try:
                        result = self.apply({"prompt": request.messages, "response": request.response}, columns)
                        result = await result if inspect.isawaitable(result) else result
                    except InputError:
                        raise
                    except (Exception, SystemExit) as error:
                        if is_lack_of_memory(error):
                            raise
                        raise self.failure(error, str(request)) from error
                progress.update()
                return result

            return list(await asyncio.gather(*map(reward_in_slot, requests)))

    def apply(self, texts: Mapping[str, Any], columns: Mapping[str, Any]) -> Any:
        """Call the function with the texts that it needs and the columns."""
        if not self.plan.texts:
            return self.function(*texts.values(), **columns)
        return self.function(**{name: texts[name] for name in self.plan.texts}, **columns)

    def failure(self, error: BaseException, culprit: str) -> InputError:
        return InputError(f"feedback {self.name} raised {describe_exception(error)}; first for {culprit}")

    def find_culprit(self, requests: Sequence[Request]) -> str:
        """The first response for which the function raises an error if called with only this response."""
        with Progress(f"{self.name} raised; one by one", len(requests), "response") as progress:
            for request in requests:
                try:
                    self.call([request])
                except (Exception, SystemExit) as error:
                    if is_lack_of_memory(error):
                        raise
                    return str(request)
                progress.update()
        return "no single response, only if called with all responses"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error of a function is an out-of-memory error on this machine.

    Other exception types are not checked, because their texts may describe a lack of memory on another machine.
    """
    return isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error)


async def result_of(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable."""
    return await awaitable


class DatasetRewards:
    """A `RewardSource` with the preferences of the data set: 1 for chosen responses and 0 for all others."""

    batch_size: int | None = None

    def __init__(self) -> None:
        self.usage = Usage()

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        return [float(request.component == "chosen") for request in requests]


def check_rewards(rewards: Any, requests: Sequence[Request], name: str) -> list[float]:
    """The rewards as floats.

    Raises:
        InputError: There is not one finite number per response. The message names the source and the response.
    """
    try:
        rewards = list(rewards)
    except TypeError as error:
        raise InputError(f"feedback {name} returned {type(rewards).__name__}, expected a list of numbers") from error
    if len(rewards) != len(requests):
        raise InputError(
            f"feedback {name} returned {len(rewards)} rewards for {len(requests)} responses, expected one for each"
        )
    for reward, request in zip(rewards, requests, strict=True):
        if not is_finite(reward):
            raise InputError(
                f"feedback {name} returned {short_repr(reward)} for {request}: every response needs a finite number"
            )
    return [float(reward) for reward in rewards]
