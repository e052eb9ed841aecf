"""An executor on a real local server: what goes over the wire, what comes back, and what happens when nothing does."""

import contextlib
import dataclasses
import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from chat_service import FINE, Act, Asked, Behaviour, ChatService, service

from tracelift_jax.config import ExecutorServer, Sampling
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.served import Question, Served, draw_seed

DRAW = Sampling(max_tokens=7, temperature=0.5, top_p=0.9)
GREEDY = dataclasses.replace(DRAW, temperature=0.0)


def echo(asked: Asked, number: int) -> str:
    """Tells one answer from every other."""
    return f"{asked.prompt}/{asked.body.get('seed')}/{number}"


def fine(asked: Asked, before: int) -> Act:
    return FINE


@contextlib.contextmanager
def executor(
    behaviour: Behaviour = fine, stop: tuple[str, ...] = (), **settings: Any
) -> Iterator[tuple[Served, ChatService]]:
    with service(behaviour, echo) as running:
        served = Served(ExecutorServer(running.url, "m", **{"backoff": 0.01} | settings), stop)
        with contextlib.closing(served):
            yield served, running


def questions(count: int, samples: int = 1) -> list[Question]:
    return [Question({"prompt": f"q{number}"}, samples, 100 + number) for number in range(count)]


def refused(served: Served, asked: list[Question], sampling: Sampling = DRAW) -> str:
    with pytest.raises(UserError) as caught:
        served.ask(asked, sampling)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{served.server}: ")


# ---------------------------------------------------------------------------------------------- questions and answers


def test_answers_come_back_to_their_questions():
    """The service gives the choices of a request last one first, and the requests in any order."""
    slow_first = lambda asked, before: Act(wait=0.0 if "q3" in asked.prompt else 0.05)  # noqa: E731
    with executor(slow_first) as (served, running):
        told = served.ask([Question({"prompt": f"q{n}"}, 1 + n, 100 + n) for n in range(4)], DRAW)
        assert told == [tuple(f"q{n}/{100 + n}/{number}" for number in range(1 + n)) for n in range(4)]
        assert len(running.asked) == 4 and served.traffic.requests == 4
        assert served.traffic.prompt_tokens == 8  # "q0" and so on
        assert served.traffic.completion_tokens == sum(len(text or "") for texts in told for text in texts)


def test_one_request_for_each_answer():
    with executor(together=False) as (served, running):
        told = served.ask(questions(2, samples=3), DRAW)
        assert told == [tuple(f"q{n}/{100 + n + number}/0" for number in range(3)) for n in range(2)]
        assert len(running.asked) == 6 and not any("n" in asked.body for asked in running.asked)


@pytest.mark.parametrize("together", [True, False])
def test_where_all_answers_are_alike_one_is_asked_for(together):
    """vLLM refuses "n" above 1 at temperature 0."""
    with executor(together=together) as (served, running):
        assert served.ask(questions(2, samples=3), GREEDY) == [("q0/100/0",) * 3, ("q1/101/0",) * 3]
        assert len(running.asked) == 2 and not any("n" in asked.body for asked in running.asked)


def test_no_questions_no_requests():
    with executor() as (served, running):
        assert served.ask([], DRAW) == [] and running.asked == []


def body(sampling: Sampling = DRAW, samples: int = 1, stop: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    with executor(stop=stop, **settings) as (served, running):
        served.ask(questions(1, samples), sampling)
        return running.asked[0].body


def test_what_goes_over_the_wire():
    plain = {"model": "m", "prompt": "q0", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 100}
    assert body() == plain
    assert body(samples=2, stop=("\n", "##")) == {**plain, "n": 2, "stop": ["\n", "##"]}
    assert body(GREEDY) == {**plain, "temperature": 0.0}
    assert "seed" not in body(seeded=False)
    extra = {"top_k": 20, "max_tokens": None, "max_completion_tokens": 9, "top_p": 0.5}
    changed = {**plain, "top_k": 20, "max_completion_tokens": 9, "top_p": 0.5}
    del changed["max_tokens"]
    assert body(extra=extra) == changed


def test_the_chat_endpoint():
    with executor(endpoint="chat") as (served, running):
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
        assert served.ask([Question({"messages": messages}, 2, 5)], DRAW) == [("hello/5/0", "hello/5/1")]
        assert running.asked[0].body["messages"] == messages and "prompt" not in running.asked[0].body


def test_the_key(monkeypatch):
    monkeypatch.setenv("EXECUTOR_KEY", "secret")
    with executor(key_variable="EXECUTOR_KEY") as (served, running):
        served.ask(questions(1), DRAW)
        assert running.asked[0].key == "Bearer secret"
    monkeypatch.setenv("EXECUTOR_KEY", "schlüssel")
    with executor(key_variable="EXECUTOR_KEY") as (served, running):
        assert refused(served, questions(3), DRAW).startswith("$EXECUTOR_KEY: holds what cannot be a key")
        assert running.asked == []


def test_seeds_of_a_batch_differ():
    """A function of the run's; all of 31 bits, as servers take them."""
    for base in (0, 1, 2**31 - 1):
        seeds = [draw_seed(base, number) for number in range(20_000)]
        assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)
    assert [draw_seed(5, number) for number in range(9)] == [draw_seed(5, number) for number in range(9)]
    assert not {draw_seed(5, n) for n in range(999)} & {draw_seed(6, n) for n in range(999)}


def test_texts_that_cannot_be_kept_are_mended():
    with executor(lambda asked, before: Act(content="7 \ud800")) as (served, _):
        assert served.ask(questions(1), DRAW) == [("7 ?",)]


def test_a_model_that_says_nothing_has_answered():
    none = '{"choices": [{"message": {"content": null}, "index": 0}], "usage": null}'
    with executor(lambda asked, before: Act(body=none), endpoint="chat") as (served, _):
        assert served.ask([Question({"messages": [{"role": "user", "content": "x"}]}, 1, 0)], DRAW) == [("",)]


# ----------------------------------------------------------------------------------------------------------- traffic


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_at_a_time_and_over_the_same_connections(most):
    with executor(lambda asked, before: Act(wait=0.01), concurrency=most) as (served, running):
        for _ in range(4):
            served.ask(questions(9), DRAW)
            time.sleep(0.1)
        assert running.most == most and len(running.asked) == 36
        assert len({asked.peer for asked in running.asked}) <= most


TROUBLE = {
    "429": Act(429),
    "500": Act(500),
    "503": Act(503),
    "dropped": Act(drop=True),
    "half an answer": Act(half=True),
    "no JSON": Act(body="<html>"),
    "another shape": Act(body='{"choices": []}'),
    "no object": Act(body='"hello"'),
}


@pytest.mark.parametrize("act", TROUBLE.values(), ids=TROUBLE.keys())
def test_trouble_is_waited_out(act):
    """The first two tries of every second question fail; what comes is what would have come at once."""
    troubled = lambda asked, before: act if before < 2 and int(asked.prompt[1:]) % 2 else FINE  # noqa: E731
    with executor(troubled) as (served, running):
        told = served.ask(questions(6, samples=2), DRAW)
        assert told == [(f"q{n}/{100 + n}/0", f"q{n}/{100 + n}/1") for n in range(6)]
        assert (served.traffic.requests, served.traffic.retries, served.traffic.failures) == (12, 6, 0)
        assert len(running.asked) == 12


def test_pauses_grow():
    with executor(lambda asked, before: FINE if before == 3 else Act(500), backoff=0.1) as (served, running):
        served.ask(questions(1), DRAW)
        began = [asked.began for asked in running.asked]
        pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
        assert all(0.1 * 2**n <= pause < 0.1 * 2**n + 0.6 for n, pause in enumerate(pauses))


def test_a_deadline():
    late = lambda asked, before: Act(wait=20) if before == 0 else FINE  # noqa: E731
    with executor(late, deadline=0.3) as (served, _):
        began = time.monotonic()
        assert served.ask(questions(2), DRAW) == [("q0/100/0",), ("q1/101/0",)]
        assert 0.3 <= time.monotonic() - began < 10
        assert served.traffic.retries == 2


# -------------------------------------------------------------------------------------------------- what does not come


@pytest.mark.parametrize("together", [True, False])
def test_an_answer_that_does_not_come_is_none_and_counted(together):
    act = lambda asked, before: Act(500) if asked.prompt == "q1" else FINE  # noqa: E731
    with executor(act, retries=1, together=together, most_failed=0.34) as (served, _):
        told = served.ask(questions(3, samples=2), DRAW)
        assert told[1] == (None, None)
        assert all(None not in told[n] and len(set(told[n])) == 2 for n in (0, 2))
        requests = 1 if together else 2
        assert served.traffic.failures == requests and served.traffic.retries == requests
        # Right at the limit: a third. The next batch counts from the start.
        assert served.ask(questions(3, samples=2), DRAW)[1] == (None, None)


def test_greedy_answers_that_do_not_come():
    with executor(lambda asked, before: Act(500) if asked.prompt == "q1" else FINE, retries=0, most_failed=0.5) as (
        served,
        _,
    ):
        assert served.ask(questions(2, samples=3), GREEDY) == [("q0/100/0",) * 3, (None,) * 3]


def test_one_answer_of_several_that_does_not_come():
    with executor(
        lambda asked, before: Act(500) if asked.body["seed"] == 102 else FINE,
        retries=0,
        together=False,
        most_failed=0.5,
    ) as (served, _):
        assert served.ask(questions(1, samples=4), DRAW) == [("q0/100/0", "q0/101/0", None, "q0/103/0")]


def test_too_many_failures_end_the_batch_at_once():
    """Two fail at once; the others would go on being retried for minutes, or hang."""

    def behave(asked: Asked, before: int) -> Act:
        return {"q0": Act(400), "q1": Act(400), "q2": FINE}.get(asked.prompt, Act(wait=60) if before else Act(500))

    with executor(behave, concurrency=40, backoff=0.5, retries=9) as (served, running):
        served.ask(questions(3)[2:], DRAW)  # it answers, and so a 400 is of the request
        began = time.monotonic()
        line = refused(served, questions(13))
        assert time.monotonic() - began < 4
        assert line == (
            "400 no, 400; with this 2 of 13 answers of the batch failed, and ExecutorServer.most_failed is 0.1; the "
            "same command goes on once it works"
        )
        sent = served.traffic.requests  # what the service has seen of them depends on how busy the machine is
        time.sleep(1.2)  # a retry would wait for a second at most
        assert served.traffic.requests == sent  # nobody goes on asking
        # A batch that goes well is not held responsible.
        running.behaviour = lambda asked, before: FINE
        assert None not in served.ask(questions(13), DRAW)


def test_a_share_of_nothing_may_fail():
    with executor(lambda asked, before: Act(500) if asked.prompt == "q9" else FINE, retries=0, most_failed=0.0) as (
        served,
        _,
    ):
        assert "1 of 20 answers of the batch failed, and ExecutorServer.most_failed is 0;" in refused(
            served, questions(20)
        )


def test_a_server_that_knows_no_n():
    with executor(lambda asked, before: Act(choices=1), concurrency=2) as (served, running):
        line = refused(served, questions(30, samples=3))
        assert line == "gives 1 answers where 3 are asked for; set ExecutorServer.together = False"
        assert len(running.asked) < 10  # found out at once
    with executor(lambda asked, before: Act(choices=1), together=False) as (served, _):
        assert served.ask(questions(1, samples=3), DRAW) == [("q0/100/0", "q0/101/0", "q0/102/0")]
    with executor(lambda asked, before: Act(choices=4), together=False) as (served, _):
        assert refused(served, questions(1)) == "gives 4 answers where 1 are asked for; see ExecutorServer.extra"


ASKING = "refuses what it is asked: {} no, {}; see ExecutorServer.model, endpoint, together, seeded and extra, and the "


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, "401 no, 401; see that $OPENAI_API_KEY (ExecutorServer.key_variable) holds its key"),
        (
            404,
            "404 no, 404; see that ExecutorServer.base_url ends before /completions and that ExecutorServer.model is "
            "served there",
        ),
        (400, ASKING.format(400, 400) + "executor's Sampling"),
        (422, ASKING.format(422, 422) + "executor's Sampling"),
    ],
)
def test_a_server_that_cannot_be_used(status, line):
    with executor(lambda asked, before: Act(status), concurrency=2) as (served, running):
        assert refused(served, questions(30)) == line
        assert len(running.asked) <= 4
        assert refused(served, questions(1)) == line  # nothing will change


def test_a_wrong_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    served = Served(ExecutorServer(url, "m", retries=1, backoff=0.01), ())
    with contextlib.closing(served):
        line = refused(served, questions(3))
    assert line.startswith("APIConnectionError: ")
    assert line.endswith(
        "with this 1 of 3 answers of the batch failed, and ExecutorServer.most_failed is 0.1; see that "
        "ExecutorServer.base_url is right and that the server is up; the same command goes on once it works"
    )


def test_asking_again_after_closing():
    with executor() as (served, _):
        assert served.ask(questions(1), DRAW) == [("q0/100/0",)]
        served.close()
        assert served.ask(questions(1), DRAW) == [("q0/100/0",)]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"most_failed": 1.0}, "most_failed must lie in [0, 1), got 1.0"),
        ({"most_failed": -0.1}, "most_failed must lie in [0, 1), got -0.1"),
        ({"endpoint": "responses"}, "endpoint: expected one of 'completions', 'chat', got 'responses' (str)"),
        ({"base_url": "localhost:8000"}, "base_url must be like http://localhost:8000/v1, got 'localhost:8000'"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
    ],
)
def test_wrong_settings(changes, line):
    with pytest.raises(UserError) as caught:
        ExecutorServer(**{"base_url": "http://x/v1", "model": "m"} | changes)
    assert str(caught.value) == f"ExecutorServer.{line}"


def test_who_answers_is_told_apart():
    """Where it is, what is asked for and how; not how patiently."""
    server = ExecutorServer("http://x/v1", "m")
    assert server.identity == "http://x/v1 (m), completions"
    others = [{"model": "n"}, {"base_url": "http://y/v1"}, {"endpoint": "chat"}, {"extra": {"top_k": 1, "a": None}}]
    assert len({dataclasses.replace(server, **change).identity for change in [{}, *others]}) == 5
    patient = dataclasses.replace(server, concurrency=1, deadline=9.0, retries=0, backoff=3.0, most_failed=0.5)
    assert patient.identity == server.identity
