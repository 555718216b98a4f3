"""What the checkup says: findings, and what to do about each reason for a reject."""

Finding = tuple[str, str, str]
"""Level, what was found, what to do about it (may be empty)."""
OK, NOTE, FAIL = "ok", "note", "FAIL"

ADVICE = {
    "not-an-object": "every sample must be a JSON object {...}",
    "no-conversations": "write `conversations`, or use an origin of kind `table`, which takes columns of any name",
    "bad-message": 'each message is {"from": "human" or "gpt", "value": text}; a table\'s cell must not be empty',
    "unreadable-row": "put the cell in double quotes, write a quote inside as two; or set `quote` of the entry",
    "record-too-long": "a record of this size holds more than a conversation: take the rest out, or split it",
    "nested-too-deeply": "a record is an object with a list of messages; take out what is nested inside it",
    "number-too-long": "write long numbers, such as hashes, as text in quotes",
    "conversation-too-long": "no model reads as much at once: split the conversation, or cut the texts",
    "bad-id": "`id` is a text or a number of at most 1000 characters; it may also be left out",
    "several-images": "one picture a sample: split the sample, or join the pictures into one",
    "bad-image-path": "`image` is the path of a picture as text, without control characters",
    "path-outside": "write paths relative to the image folder: no leading /, no drive, no `..`",
    "image-address": "pictures are not fetched from addresses: save them as files and name their paths",
    "lone-surrogate": "half of a character's escape (\\ud83d without its partner): export the texts as UTF-8 again",
    "no_turns": "`conversations` is empty: give one question and one answer at least",
    "wrong_roles": "messages alternate human, gpt, human, gpt and end with gpt",
    "empty_question": "write a question beside `<image>`, for example: Describe the picture.",
    "empty_answer": "take the sample out, or write its answer",
    "control_token_in_text": "take the token out of the text: it belongs to the prompt template",
    "image_marker_without_image": "give the sample its `image`, or take `<image>` out of the text",
    "image_without_marker": "put `<image>` in front of the first question",
    "image_not_in_first_turn": "move `<image>` to the first question",
    "too_many_images": "one `<image>` a sample: take the others out",
    "missing-image": "put the picture there, or mend its name in the annotations",
    "not-a-file": "a folder, pipe, device or link stands there: put the picture there, as a plain file or member",
    "link-outside": "copy the picture into the image folder: links that leave it are not followed",
    "image-name-too-long": "shorten the name; is it a text in the wrong column?",
    "file-too-large": "save the picture smaller, or raise data.max_image_pixels in params.yaml",
    "too-many-pixels": "save the picture smaller, or raise data.max_image_pixels in params.yaml",
    "unreadable-image": "the system refuses to read it: check its permissions and the disk",
    "damaged-archive-member": "get the archive again",
    "encrypted-archive-member": "pack the archive without a password",
    "unsupported-compression": "pack the archive with deflate, or as a plain .tar",
    "empty-image": "the file has no bytes: get it again",
    "unsupported-format": "no JPEG, PNG, WebP, GIF, BMP or TIFF: convert it; get it again if it is an error page",
    "too-many-scans": "save the picture again, as a plain JPEG or a PNG",
    "corrupt-image": "damaged: get it again, or convert it with another program",
    "truncated-image": "the file ends too early: get it again",
    "unsupported-mode": "save it with 8 or 16 bits a channel",
    "corrupt-metadata": "save the picture again without its metadata",
    "out-of-memory": "save the picture smaller",
}
"""By the reason codes of ingest, sharding and the template."""


def rejects_finding(reason: str, count: int, total: int, where: str, evidence: str, more: str = "") -> Finding:
    """A reason with its number of samples and the first of them, which `where` names."""
    advice = more or ADVICE.get(reason, "see the evidence")
    return FAIL, f"{reason.replace('_', '-')}: {count:,} of {total:,}; first: {where}: {evidence[:160]}", advice
