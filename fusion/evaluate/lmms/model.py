"""A FUSION checkpoint as a model of lmms-eval: answers until a word, rounds, log-likelihoods, with a picture or none.

One picture a question: a task that gives several is an error, and so is an option of generation that is not known here.
Nothing is left out silently, because a number would come out all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms

from fusion.model.checkpoints import load_checkpoint
from fusion.model.encoding import SampleEncoder
from fusion.model.template import Message

MAX_NEW_TOKENS = 256
"""Where a task says nothing."""
_UNDERSTOOD = {"max_new_tokens", "until", "temperature", "top_p", "num_beams", "do_sample", "image_aspect_ratio"}
"""`image_aspect_ratio` is for models that cut pictures in their own ways; ours has one way."""


class FusionLmms(lmms):
    """`--model fusion --model_args pretrained=FOLDER`.

    Args:
        pretrained: a checkpoint's folder or Hub repository.
        device: "cpu", "cuda", "cuda:1", ...; None = a GPU where there is one.
        batch_size: questions that are answered together.
        dtype: of the weights, as in the Transformers library.
        kwargs: nothing else is understood; None values, which lmms-eval passes along, are.

    Raises:
        ValueError: an argument is not understood.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(name for name, value in kwargs.items() if value is not None)
        if unknown:
            raise ValueError(f"model_args: {', '.join(unknown)}: not understood by the model `fusion`")
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = int(batch_size)
        self._model, self._processor = load_checkpoint(pretrained, dtype=dtype, device=self._device)

    @property
    def processor(self) -> SampleEncoder:
        """What makes prompts."""
        return self._processor

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of `requests`, each cut before the first of its task's `until` words."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        for members in groups.values():
            members.sort(key=lambda index: len(requests[index].args[0]))
            for start in range(0, len(members), self.batch_size):
                chosen = members[start : start + self.batch_size]
                asked = []
                for index in chosen:
                    text, _, to_visual, doc_id, task, split = requests[index].args
                    asked.append((text, self._picture(to_visual, task, split, doc_id)))
                for index, answer in zip(chosen, self._answer(asked, requests[chosen[0]].args[1]), strict=True):
                    answers[index] = answer
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Answers of all rounds of each request; what is asked next, the task says when it has seen the answers."""
        return [self._rounds(request) for request in requests]

    def _rounds(self, request: Any) -> list[str]:
        text, options, to_visual, to_text, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        visuals, facts = to_visual(doc), None
        outputs: list[str] = []
        while True:
            if outputs:
                visuals, text, done, outputs, facts = to_text(
                    doc, previous_output=outputs, round_idx=len(outputs), previous_round_info=facts
                )
                outputs = list(outputs)
                if done:
                    return outputs
            (answer,) = self._answer([(text, _one(visuals, task, doc_id))], options)
            outputs.append(answer)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each request the log-probability of its continuation, without the end of the turn, and whether greedy
        decoding would have given it."""
        found = []
        for start in range(0, len(requests), self.batch_size):
            samples = []
            for request in requests[start : start + self.batch_size]:
                text, target, to_visual, doc_id, task, split = request.args
                wanted = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
                picture = self._picture(to_visual, task, split, doc_id)
                turns: list[Message] = [
                    {"from": "human", "value": _with_picture(text, picture)},
                    {"from": "gpt", "value": str(wanted)},
                ]
                samples.append(self._processor.encode(turns, picture, num_latents=self._model.config.num_latents))
            found += self._likelihoods(samples)
        return found

    def _likelihoods(self, samples: Sequence[Any]) -> list[tuple[float, bool]]:
        batch = self._processor.collate(samples).to(self._device)
        with torch.inference_mode():
            logits = self._model(batch, return_logits=True).logits
        config = self._model.config
        found = []
        for row, sample in zip(logits, samples, strict=True):
            # Supervised are the answer and the end of its turn, the last tokens of the sequence.
            answer = [int(token) for token in sample.labels if token >= 0][:-1]
            end = sample.sequence_length(config.num_patches, config.num_latents) - 1
            # The position before each token foretells it.
            scores = row[end - len(answer) - 1 : end - 1].float().log_softmax(-1)
            tokens = torch.tensor(answer, device=scores.device)
            picked = scores.gather(1, tokens[:, None]).sum()
            found.append((float(picked), bool((scores.argmax(-1) == tokens).all())))
        return found

    def _picture(self, to_visual: Callable[[Any], Any], task: str, split: str, doc_id: int) -> Any:
        return _one(to_visual(self.task_dict[task][split][doc_id]), task, doc_id)

    def _answer(self, asked: Sequence[tuple[str, Any]], options: Mapping[str, Any]) -> list[str]:
        """Answers to (text, picture or None) pairs with the same options."""
        unknown = sorted(set(options) - _UNDERSTOOD)
        if unknown:
            raise ValueError(f"generation_kwargs: {', '.join(unknown)}: not understood by the model `fusion`")
        prompts = [
            self._processor.encode_prompt([{"from": "human", "value": _with_picture(text, picture)}], picture)
            for text, picture in asked
        ]
        sampling: dict[str, Any] = {}
        if options.get("do_sample"):
            given = {name: options[name] for name in ("temperature", "top_p") if options.get(name) is not None}
            sampling = {"do_sample": True, **given}
        beams = int(options.get("num_beams") or 1)
        most = int(options.get("max_new_tokens") or MAX_NEW_TOKENS)
        batch = self._processor.collate(prompts).to(self._device)
        with torch.inference_mode():
            ids = self._model.generate_answers(batch, most, num_beams=beams, **sampling)
        return [cut(answer, options.get("until")) for answer in self._processor.decode_answers(ids)]


def cut(answer: str, until: str | Sequence[str] | None) -> str:
    """An answer before the first of the words that end it."""
    for word in [until] if isinstance(until, str) else until or []:
        if word:
            answer = answer.split(word)[0]
    return answer


def _one(visuals: Any, task: str, doc_id: int) -> Any:
    """The one picture, or None; raises `ValueError` for several."""
    found = [item for item in visuals or [] if item is not None]
    if len(found) > 1:
        raise ValueError(f"{task}, question {doc_id}: {len(found)} pictures, and FUSION looks at one a question")
    return found[0] if found else None


def _with_picture(text: str, picture: Any) -> str:
    return f"<image>\n{text}" if picture is not None else text
