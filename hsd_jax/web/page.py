"""The page: its parts, and what happens when they are touched."""

import html
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, get_args

import gradio as gr
import numpy as np
from gradio.queueing import EventQueue
from gradio.themes import Soft

from hsd_jax.runtime.console import one_line
from hsd_jax.swapping.light import Light
from hsd_jax.swapping.mixing import REGIONS
from hsd_jax.swapping.pair import Align
from hsd_jax.swapping.skin import SkinTone
from hsd_jax.web.desk import BODY, DRAWN, HEAD, Desk, Swapped, Wish, nearest
from hsd_jax.web.limits import MAX_WAITING, FairQueue

_TURN: dict[str, Any] = {"concurrency_id": "networks", "concurrency_limit": 1}
"""What touches the networks waits its turn."""
MAX_SAMPLES = 4
_MAX_STEPS = 50
_KEPT_SECONDS = 3600

_INTRO = """# Head swap
The head of one photo on the body of another. Photos of people seen from about the same side, head
and shoulders upright, work best. The first swap after a start takes longest."""
_RESPONSIBLE = """A head swap shows someone in a place and a body that are not theirs. **Use photos
of people who agreed to it, or of yourself.** Do not use it to deceive, to harass, for sexual
content, for identification or to get around it, or to show a real person in a bad light. Every
image carries a mark that says it is synthetic: leave it there, and say so where you show it."""
_PRIVACY = """Photos stay on the computer that serves this page, which deletes them within two
hours."""
CSS = """
.gradio-container {max-width: min(1280px, 100vw) !important; margin: 0 auto !important}
.gradio-container {overflow: clip !important}
.gradio-container .main {max-width: 100% !important}
#seen-head, #seen-body {cursor: pointer}
#swap {position: sticky; bottom: .5em; z-index: 10}
#stages .grid-container {grid-template-columns: repeat(3, minmax(0, 1fr))}
.classes {display: flex; flex-wrap: wrap; gap: .2em 1em}
.classes i {display: inline-block; width: 1em; height: 1em; margin-right: .3em}
"""
_REGIONS = {
    "the head": "head", "the face (hair stays)": "face", "the hair": "hair", "the hat": "hat",
    "the clothes": "clothes",
}  # fmt: skip


def theme() -> Soft:
    """With the fonts of whoever looks at the page: none is fetched from elsewhere."""
    return Soft(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def _upload(**options: Any) -> gr.Image:
    """A photo that was uploaded, as its file: to be opened by `imaging.files` alone.

    No class of its own: Gradio writes a stub file beside the source of each subclass.
    """
    photo: Any = gr.Image(**options)
    move = photo.async_move_resource_to_block_cache

    def to_file(payload: Any) -> Path | None:
        # Gradio has checked that it is an upload.
        return None if payload is None or payload.path is None else Path(payload.path)

    async def move_no_address(path: str | Path | None) -> str | None:
        if "://" in str(path):  # Gradio would fetch it
            message = "upload the photo itself, not its address"
            raise gr.Error(message, title="Not done", print_exception=False)
        return await move(path)

    photo.preprocess, photo.async_move_resource_to_block_cache = to_file, move_no_address
    return photo


def _editor(palette: Sequence[tuple[int, int, int]]) -> gr.ImageEditor:
    """A picture to draw on with the colours of the classes; its value is the drawing's file.

    Only its value may be set later: Gradio makes a component anew whose other options change.
    """
    colours: list[Any] = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette]
    editor: Any = gr.ImageEditor(
        label="Layout", height=420, elem_id="layout", sources=[], transforms=[], buttons=[],
        layers=False, image_mode="RGBA", canvas_size=(DRAWN, DRAWN), format="png",
        brush=gr.Brush(default_size=16, colors=colours, default_color=colours[1],
                       color_mode="fixed"),
    )  # fmt: skip

    def to_file(payload: Any) -> Path | None:
        # Gradio has checked that it is an upload.
        return Path(payload.layers[0].path) if payload and payload.layers else None

    editor.preprocess = to_file
    return editor


@contextmanager
def _told() -> Iterator[None]:
    """Errors that are the photo's or the wish's, as the page says them."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = html.escape(one_line(error), quote=False)
        raise gr.Error(message, title="Not done", print_exception=False) from None


def build(desk: Desk, queue: FairQueue, example: tuple[Path, Path] | None = None) -> gr.Blocks:
    """The page of one set of weights, with its API, not yet served.

    Args:
      desk: does the work.
      queue: will hold what waits, empty now.
      example: two photos to try it with.
    """
    with gr.Blocks(
        title="Head swap", analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(_INTRO)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    head, head_person = _photo("1. Whose head", "head", HEAD, desk)
                    body, person = _photo("2. On whose body", "body", BODY, desk)
                if example:
                    _example(example, head, body)
                *options, light = _options(desk)
                wish = [*options, person, head_person, *_fit(), light]
                drawing = _drawing(desk, [head, body, *wish])
                button = gr.Button("Swap", variant="primary", size="lg", elem_id="swap")
            with gr.Column(scale=2, min_width=320):
                result = _Result()
        with gr.Accordion("Responsible use", open=True):
            gr.Markdown(f"{_RESPONSIBLE} {_PRIVACY}")
        _bind(desk, [head, body, *wish], drawing, button, result)
    # Closed to calls that would go past the queue.
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    networks = EventQueue(_TURN["concurrency_id"], _TURN["concurrency_limit"])
    networks.queue = queue
    page._queue.event_queue_per_concurrency_id[networks.concurrency_id] = networks
    return page


def _example(pair: tuple[Path, Path], head: gr.Image, body: gr.Image) -> None:
    """A button that drops two photos."""
    button = gr.Button("Try it with two photos in the public domain", size="sm")
    paths = [str(path) for path in pair]
    button.click(lambda: paths, None, [head, body], api_visibility="private")


def _photo(label: str, name: str, role: str, desk: Desk) -> tuple[gr.Image, gr.Radio]:
    """One photo: where it is dropped, what is seen in it, and who of it is meant."""
    with gr.Column(min_width=160):
        photo = _upload(
            label=label, height=280, sources=["upload", "webcam", "clipboard"], elem_id=name
        )
        seen = gr.Image(
            label="What is seen in it", height=280, interactive=False, buttons=[],
            visible=False, elem_id=f"seen-{name}",
        )  # fmt: skip
        person = gr.Radio(
            [("1", 1)], value=1, label="Person: choose, or touch a face above", visible=False
        )
        places = gr.State()

    def look(path: Path | None) -> tuple[Any, ...]:
        if path is None:
            return gr.Image(visible=False), gr.Radio(value=1, visible=False), None
        with _told():
            found = desk.look(path, role)
        numbers = [(str(n), n) for n in range(1, len(found.faces) + 1)]
        radio = gr.Radio(numbers, value=1, visible=len(numbers) > 1)
        return gr.Image(found.picture, visible=True), radio, found.faces

    def pick(faces: Any, event: gr.SelectData) -> int:
        x, y = event.index
        return nearest(faces, x, y) if faces else 1

    outputs = [seen, person, places]
    photo.change(look, photo, outputs, api_visibility="private", show_progress="minimal", **_TURN)
    seen.select(pick, places, person, api_visibility="private")
    return photo, person


def _options(desk: Desk) -> list[Any]:
    """Components of `Wish`, in its order, up to the persons; then the light's, its last."""
    with gr.Accordion("Options", open=False):
        with gr.Row():
            seed = gr.Number(
                0, label="Seed", info="another one paints anew", precision=0, minimum=0,
                min_width=120,
            )  # fmt: skip
            samples = gr.Slider(1, MAX_SAMPLES, 1, step=1, label="Samples", min_width=160)
            steps = gr.Slider(
                2, max(_MAX_STEPS, desk.default_steps), desk.default_steps, step=1, label="Steps",
                info="of painting; more take longer", min_width=160,
            )  # fmt: skip
        with gr.Row():
            tone = gr.Radio(
                list(get_args(SkinTone)), value="auto", label="Skin tone",
                info="whether the body's skin follows the new face", min_width=220,
            )  # fmt: skip
            light = gr.Radio(
                list(get_args(Light)), value="match", label="Light",
                info="whether the head takes the colour of the body's light", min_width=220,
            )  # fmt: skip
    return [seed, steps, samples, tone, light]


def _fit() -> list[Any]:
    """Components of `Wish`: what is taken, and how it is brought over the neck."""
    with gr.Accordion("What is swapped, and how it fits", open=False):
        region = gr.Radio(
            list(_REGIONS.items()), value="head", label="Take from the first photo", min_width=220
        )
        align = gr.Radio(
            [("move", "shift"), ("move and turn", "similarity"), ("leave", "none")],
            value="shift", label="Fit", info="of the head to the body's neck", min_width=220,
        )  # fmt: skip
    return [region, align]


def _drawing(desk: Desk, inputs: list[Any]) -> gr.ImageEditor:
    """The layout of the result, to draw on before the swap; what it depends on clears it."""
    with gr.Accordion("Draw on the layout", open=False):
        gr.Markdown("The colours say what the result shows where. Draw, then swap: what you drew "
                    "is painted anew as what its colour means.")  # fmt: skip
        button = gr.Button("Show the layout", size="sm")
        editor = _editor(desk.labels.palette)
        names = zip(desk.labels.classes, desk.labels.palette, strict=True)
        gr.HTML("<div class='classes'>" + "".join(
            f"<span><i style='background:rgb{colour}'></i>{name}</span>" for name, colour in names
        ) + "</div>")  # fmt: skip

    def show(head: Path | None, body: Path | None, *wish: Any) -> Any:
        with _told():
            picture = desk.layout(*_both(head, body), _wish(*wish))
        return {"background": picture, "layers": [], "composite": None}

    button.click(show, inputs, editor, api_visibility="private", **_TURN)
    for component in inputs:
        if not isinstance(component, gr.Number | gr.Slider):  # which do not change it
            component.change(
                lambda: None, None, editor, api_visibility="private", show_progress="hidden"
            )
    return editor


def _both(head: Path | None, body: Path | None) -> tuple[Path, Path]:
    if head is None or body is None:
        raise ValueError("give two photos: one of the head, one of the body")
    return head, body


class _Result:
    """Where a swap is shown."""

    def __init__(self) -> None:
        self.live = gr.Image(
            label="Painting", interactive=False, buttons=[], visible=False, elem_id="live",
            height=320,
        )  # fmt: skip
        self.slider = gr.ImageSlider(
            label="Before and after", interactive=False, buttons=["fullscreen"], max_height=520,
            slider_position=8,
        )  # fmt: skip
        self.notes = gr.Markdown()
        self.samples = gr.Gallery(
            label="Samples: choose one", columns=MAX_SAMPLES, height=220, visible=False,
            object_fit="contain",
            allow_preview=False, interactive=False,
        )  # fmt: skip
        self.download = gr.DownloadButton(
            "Download at full size (PNG)", interactive=False, variant="secondary"
        )
        with gr.Accordion("How it was made: layouts, and the fusion step by step", open=False):
            self.stages = gr.Gallery(
                show_label=False, columns=3, object_fit="contain", interactive=False,
                buttons=["fullscreen"], elem_id="stages",
            )  # fmt: skip
        self.swapped = gr.State()


def _bind(
    desk: Desk, inputs: list[Any], drawing: gr.ImageEditor, button: gr.Button, result: _Result
) -> None:
    """What the button, a choice among the samples, and the API do."""

    def show(drawn: Path | None, head: Any, body: Any, *wish: Any) -> Iterator[list[Any]]:
        steps: Queue[np.ndarray | None] = Queue()
        with _told(), ThreadPoolExecutor(1) as one:
            photos, asked = _both(head, body), _wish(*wish)
            swapping = one.submit(desk.swap, *photos, asked, drawn, steps.put)
            swapping.add_done_callback(lambda _: steps.put(None))
            while (step := steps.get()) is not None:
                yield [gr.Image(step, visible=True), *[gr.skip()] * len(parts)]
            swapped = swapping.result()
        notes = "\n".join(f"- {html.escape(warning)}" for warning in swapped.report["warnings"])
        samples = gr.Gallery(
            [str(path) for path in swapped.shown], visible=len(swapped.shown) > 1, selected_index=0
        )
        stages = [(str(path), caption) for path, caption in swapped.stages]
        yield [gr.Image(visible=False), *_chosen(swapped, 0), notes, samples, stages, swapped]

    def choose(swapped: Swapped | None, event: gr.SelectData) -> list[Any]:
        return [gr.skip(), gr.skip()] if swapped is None else _chosen(swapped, event.index)

    def swap(
        head: Any, body: Any, seed: Any, steps: Any, samples: Any, skin_tone: Any, person: Any,
        head_person: Any, region: Any, align: Any, light: Any,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        wish = (seed, steps, samples, skin_tone, person, head_person, region, align, light)
        with _told():
            swapped = desk.swap(*_both(head, body), _wish(*wish))
        return [str(path) for path in swapped.images], swapped.report

    parts = [
        result.slider, result.download, result.notes, result.samples, result.stages, result.swapped,
    ]  # fmt: skip
    button.click(
        show, [drawing, *inputs], [result.live, *parts], api_visibility="private",
        show_progress_on=result.slider, scroll_to_output=True, **_TURN,
    )  # fmt: skip
    result.samples.select(
        choose, result.swapped, [result.slider, result.download], api_visibility="private"
    )
    gr.Button(visible=False).click(
        swap, [*inputs[:2], *_asked(desk)],
        [gr.File(file_count="multiple", visible=False), gr.JSON(visible=False)],
        api_name="swap", api_description="The head of the first photo on the body of the second: "
        "an image a sample, and what there is to say of them.", **_TURN,
    )  # fmt: skip


def _asked(desk: Desk) -> list[Any]:
    """Components of the API's options, which refuse nothing themselves: `_wish` does, in words."""
    numbers = [gr.Number(x, visible=False) for x in (0, desk.default_steps, 1, 1, 1)]
    tone, *rest = (gr.Textbox(x, visible=False) for x in ("auto", "head", "shift", "match"))
    return [*numbers[:3], tone, *numbers[3:], *rest]


def _chosen(swapped: Swapped, index: int) -> list[Any]:
    """The slider and the button of one sample."""
    slider = (str(swapped.before), str(swapped.shown[index]))
    return [slider, gr.DownloadButton(value=str(swapped.images[index]), interactive=True)]


def _wish(
    seed: Any, steps: Any, samples: Any, skin_tone: str, person: Any, other: Any, region: str,
    align: str, light: str,
) -> Wish:  # fmt: skip
    """What the options of the page, or of the API, ask for.

    Raises:
      ValueError: one is out of range.
    """
    ranges = {
        "seed": (seed, 0, 2**32 - 1), "steps": (steps, 2, _MAX_STEPS),
        "samples": (samples, 1, MAX_SAMPLES), "person": (person, 1, 1000),
        "head_person": (other, 1, 1000),
    }  # fmt: skip
    for name, (value, low, high) in ranges.items():
        if value is None or value != int(value) or not low <= value <= high:
            raise ValueError(f"{name} is {value}: give a whole number from {low} to {high}")
    names = {
        "skin_tone": (skin_tone, get_args(SkinTone)), "region": (region, REGIONS),
        "align": (align, get_args(Align)), "light": (light, get_args(Light)),
    }  # fmt: skip
    for name, (value, known) in names.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}: use one of {', '.join(known)}")
    numbers = {name: int(value) for name, (value, _, _) in ranges.items()}
    chosen: dict[str, Any] = {name: value for name, (value, _) in names.items()}
    return Wish(**numbers, **chosen)
