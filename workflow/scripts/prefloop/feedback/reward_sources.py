"""Rewards of responses, one number per response, by a Python function or the data set itself."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
    """The sampler's component; `chosen` or `rejected` for a data set's own response."""
    columns: Mapping[str, Any] = MappingProxyType({})
    """What else is known of the response and its prompt, by the names of COLUMNS."""

    def __str__(self) -> str:
        return f"prompt {self.prompt_id}, response {self.response_id}"

    def has(self, name: str) -> bool:
        """Whether a function can have the column `name` of this response."""
        return name in COLUMNS or (isinstance(meta := self.columns.get("meta"), dict) and name in meta)

    def column(self, name: str) -> Any:
        """A column of the response, of its prompt, or of its prompt's meta; InputError if there is none."""
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
    """Responses that it reads at once; None if it accepts any number."""
    usage: Usage
    """What it has computed so far."""

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """One finite number per response; InputError if a response has none."""


RewardFunction = Callable[..., Any]
"""A function of the user that returns, or awaits, one number per response, or one number for one response."""


class FunctionRewards:
    """The rewards of a function, which names what it needs by its parameters (`plan_call`)."""

    batch_size: int | None = None

    def __init__(self, function: RewardFunction, concurrency: int = 8) -> None:
        """Prepare the calls of a function.

        Args:
            function: The function; it may be async.
            concurrency: Concurrent calls of an async function that rewards one response.

        Raises:
            SettingError: Its parameters do not fit.
        """
        self.function, self.concurrency, self.usage = function, concurrency, Usage()
        self.name = getattr(function, "__name__", type(function).__name__)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # of a builtin, which does not name its parameters
            parameters = [inspect.Parameter("texts", inspect.Parameter.VAR_POSITIONAL)]
        try:
            self.plan: RewardCall = plan_call(parameters)
        except ValueError as error:
            raise SettingError(f"function: {self.name} {error}") from error

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """Call the function, once for all responses or once per response.

        Raises:
            InputError: It raises, or its result is not one finite number per response. Lack of memory is no fault of
                the function and passes, for example torch.OutOfMemoryError of a model that the function runs.
        """
        rewards = asyncio.run(self.reward_each(requests)) if self.plan.is_single else self.reward_all(requests)
        return check_rewards(rewards, requests, self.name)

    def reward_all(self, requests: Sequence[Request]) -> Any:
        """The result of one call for all responses; its loop over the responses shows its progress."""
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
        result = asyncio.run(result_of(result)) if inspect.isawaitable(result) else result
        # A generator runs here, where its errors are caught, and one without an end is cut.
        return list(islice(result, len(requests) + 1)) if isinstance(result, Iterator) else result

    async def reward_each(self, requests: Sequence[Request]) -> list[Any]:
        """The results of one call per response, at most `concurrency` at once if it is async."""
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
        """Call the function with the texts that it takes and the columns."""
        if not self.plan.texts:
            return self.function(*texts.values(), **columns)
        return self.function(**{name: texts[name] for name in self.plan.texts}, **columns)

    def failure(self, error: BaseException, culprit: str) -> InputError:
        return InputError(f"feedback {self.name} raised {describe_exception(error)}; first for {culprit}")

    def find_culprit(self, requests: Sequence[Request]) -> str:
        """The first response for which the function raises when called with this response alone."""
        with Progress(f"{self.name} raised; one by one", len(requests), "response") as progress:
            for request in requests:
                try:
                    self.call([request])
                except (Exception, SystemExit) as error:
                    if is_lack_of_memory(error):
                        raise
                    return str(request)
                progress.update()
        return "no single response: it raises only on all together"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error of a function is that memory is full; the text of other errors may say so of another machine."""
    return isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error)


async def result_of(awaitable: Awaitable[Any]) -> Any:
    """The result of anything that can be awaited."""
    return await awaitable


class DatasetRewards:
    """The data set's own preference: 1 for chosen responses and 0 for all others."""

    batch_size: int | None = None

    def __init__(self) -> None:
        self.usage = Usage()

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        return [float(request.component == "chosen") for request in requests]


def check_rewards(rewards: Any, requests: Sequence[Request], name: str) -> list[float]:
    """The rewards as floats.

    Raises:
        InputError: There is not one finite number per response; the message names the source and the response.
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
