"""`image.answer`: answers questions about a picture."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from handlers.declaration import Context, Handler, Job, Media, One, Params, Result
from handlers.media.image import FOR_MODELS, open_picture
from handlers.models import blip_vqa, name_of

ROLE = "answer"
_IMAGE = "inputs/image"


def _asked(question: str) -> str:
    """A question without the white space around it. Raises ValueError where nothing else is there."""
    if not (stripped := question.strip()):
        raise ValueError("is blank: write a question, as `what colour is the door?`")
    return stripped


Question = Annotated[
    str,
    Field(
        min_length=1,
        max_length=300,
        examples=["what colour is the door?"],
        json_schema_extra={"pattern": r"\S"},
    ),
    AfterValidator(_asked),
]


class AnswerParams(Params):
    """What is asked about the picture."""

    questions: list[Question] = Field(
        min_length=1,
        max_length=16,
        description="The questions, in English, as `what colour is the door?` or `how many people are there?`; at most"
        " 300 characters each.",
    )
    max_tokens: int = Field(default=20, ge=1, le=128, description="Longest answer, in the model's tokens.")
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a checkpoint of the catalogue that answers; the deployment's default where it is left"
        " out.",
    )


class Answer(Result):
    """One answer."""

    question: str = Field(description="As it was asked, without white space around it.")
    text: str = Field(description="The answer, in English: a word or a few.")
    score: float = Field(description="Mean log-probability of its tokens by the model, at most 0: greater is surer.")


class AnswerResult(Result):
    """What was answered."""

    answers: list[Answer] = Field(description="An answer to each question, in their order.")
    checkpoint: str = Field(description="Name of the checkpoint that wrote them.")


class AnswerQuestions(Handler[AnswerParams, AnswerResult]):
    """Answers one to sixteen questions about one picture; the output `answers` is the result as a JSON file."""

    type = "image.answer"
    version = 1
    inputs = {"image": One(Media.IMAGE)}

    def checkpoints(self, params: AnswerParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    async def run(self, job: Job[AnswerParams], ctx: Context) -> AnswerResult:
        params = job.params
        checkpoint = params.checkpoint or ROLE
        picture = await ctx.cpu(open_picture, job.one("image"), ctx.limits, _IMAGE, FOR_MODELS)
        ctx.probe(_IMAGE, picture.facts.as_dict())
        ctx.embed(picture.image, of=_IMAGE)

        sample = await ctx.prepare(blip_vqa.prepare, checkpoint, picture.image, params.questions, params.max_tokens)
        [answers] = await ctx.infer(blip_vqa.answer, checkpoint, [sample], key=sample.batch_key)

        result = AnswerResult(
            answers=[
                Answer(question=question, text=answer.text, score=answer.score)
                for question, answer in zip(params.questions, answers, strict=True)
            ],
            checkpoint=await ctx.prepare(name_of, checkpoint),
        )
        output = ctx.output("answers", ".json", "application/json")
        await ctx.cpu(output.write_bytes, result.model_dump_json(indent=1).encode() + b"\n")
        return result
