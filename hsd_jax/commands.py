"""What the commands of `hsd` read, write and print.

JAX, and everything that needs it, is imported inside the functions, so that mistakes are reported
before it starts. Functions raise ValueError with what was wrong and what to do.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hsd_jax.runtime import process
from hsd_jax.runtime.console import Progress, tell
from hsd_jax.runtime.files import check_folder
from hsd_jax.runtime.threads import spread


def swap(args: argparse.Namespace) -> None:
    """`hsd swap`."""
    with Progress() as progress:
        _, report = _swap_files(args, progress)
    _tell(report, args.json)


def demo(args: argparse.Namespace) -> None:
    """`hsd demo`: swaps the demo's photos and writes the strip of stages beside the result."""
    from hsd_jax.imaging import files
    from hsd_jax.imaging.demo import find_photos, strip

    args.head, args.body = find_photos()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    path = args.output.with_name(f"{args.output.stem}-strip.png")
    files.check_output(path)
    with Progress() as progress:
        result, report = _swap_files(args, progress)
        from hsd_jax import weights
        from hsd_jax.labels import get_label_set

        labels = weights.read_record(weights.find(args.weights), "unet")["extra"]["labels"]
        files.save_image(strip(result.stages, get_label_set(labels)), path, result.mark)
    _tell({**report, "strip": str(path)}, args.json)


def batch(args: argparse.Namespace) -> int:
    """`hsd batch`; returns 1 if any pair failed."""
    if args.plan:
        return _plan(args)
    if not args.photos or args.output is None:
        raise ValueError("give PAIRS.csv, or HEADS and BODIES, and with -o a folder for results")
    from hsd_jax import batch as batches
    from hsd_jax import weights
    from hsd_jax.swapping.edits import Edit

    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file: give a folder")
    jobs, base = _jobs(args)
    credentials, process_of = _credentials(args), _process_of(args.process)
    folder, edits = weights.find(args.weights), Edit.in_turn(_regions(args), args.hair)
    settings = batches.Settings(
        weights.fingerprint(folder), args.solver, args.steps, args.preserve, args.skin_tone,
        args.light, args.align, [edit.region for edit in edits], args.generate, args.label,
    )  # fmt: skip
    of = partial(batches.Batch, folder=args.output, base=base, settings=settings,
                 credentials=credentials, process=process_of)  # fmt: skip
    run = of(jobs)
    with Progress(unit="pair") as progress:
        if run.todo or args.track:
            progress.stage("loading the weights ...")
            import jax

            from hsd_jax.swap import HeadSwapper
            from hsd_jax.swapping.spec import Sampling

            # By the whole list, so that every process and every resumed run computes alike.
            size = min(args.batch, len(jobs))
            swapper = HeadSwapper(folder, size, jax.local_devices())
            if args.track:
                progress.stage("following the person ...")
                run = of(batches.track(jobs, base, swapper, args.track))
            run.run(swapper, Sampling(args.solver, args.steps), size, progress)
        seconds = progress.seconds
    failed = len(run.errors)
    report = {
        "output": str(args.output), "swapped": len(run.todo) - failed, "skipped": run.skipped,
        "failed": failed, "seconds": seconds,
    }  # fmt: skip
    if args.json:
        print(json.dumps(report))
    else:
        done = f"{report['swapped']} swapped, {run.skipped} done before"
        print(f"{args.output}: {done}, {failed} failed, in {seconds:.1f} s")
    if failed:
        tell(f"hsd batch: {run.errors_path} says why")
    return 1 if failed else 0


def _plan(args: argparse.Namespace) -> int:
    """`hsd batch --plan`."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    if (count := args.plan.removeprefix("cpu:")).isdigit():
        jax.config.update("jax_num_cpu_devices", int(count))
    try:
        from hsd_jax.bench import plan
        from hsd_jax.swapping.spec import Sampling
    except ModuleNotFoundError as error:
        raise ValueError(f"--plan needs {error.name}: pip install 'hsd-jax[train]'") from error
    pairs = sorted({1, args.batch, 4 * args.batch})
    report = plan.plan(args.weights, args.plan, pairs, Sampling(args.solver, args.steps))
    print(report.json() if args.json else report.text())
    return 0


def _jobs(args: argparse.Namespace) -> tuple[list[Any], Path]:
    """The pairs, and the folder that their paths start from."""
    from hsd_jax import batch

    if len(args.photos) == 2:
        heads, bodies = args.photos
        return batch.pair_photos(heads, bodies, args.zip, args.seed), Path()
    if args.zip or len(args.photos) > 2:
        raise ValueError("give a list PAIRS.csv alone, or HEADS and BODIES (patterns in quotes)")
    if args.track:
        raise ValueError("--track goes with HEADS and BODIES: a list has the column person")
    path = Path(args.photos[0])
    return batch.read_jobs(path, args.seed), path.parent


def _process_of(given: tuple[int, int] | None) -> tuple[int, int]:
    """Which process of how many this is: as told, or as the launcher tells JAX."""
    if given:
        return given
    from hsd_jax.training import processes

    processes.join()
    import jax

    return jax.process_index() + 1, jax.process_count()


def explain(args: argparse.Namespace) -> None:
    """`hsd explain`."""
    from hsd_jax.imaging import figure, files

    files.check_output(args.output)
    _check_not_read(args.output, [args.head, args.body])
    with Progress() as progress:
        head, body = (files.read_photo(path) for path in (args.head, args.body))
        progress.stage("loading the weights ...")
        from hsd_jax.swap import HeadSwapper
        from hsd_jax.swapping.edits import Edit
        from hsd_jax.swapping.spec import Sampling

        swapper = HeadSwapper.from_pretrained(args.weights)
        sampling = Sampling(args.solver, args.steps)
        result = swapper(
            head, body, seed=args.seed, steps=args.steps, solver=args.solver,
            preserve=args.preserve, skin_tone=args.skin_tone, light=args.light,
            person=args.person, head_person=args.head_person, keep_steps=True, align=args.align,
            edit=Edit.in_turn(_regions(args), args.hair, generate=args.generate),
            progress=lambda stage: progress.stage(f"{stage} ..."),
        )  # fmt: skip
        times = swapper.spec.times(sampling)
        drawn = figure.explain(result.stages, result.steps, times, swapper.spec.labels)
        files.save_image(drawn, args.output, result.mark, label=args.label,
                         credentials=_credentials(args))  # fmt: skip
        seconds = progress.seconds
    report = {"output": str(args.output), "outputs": [str(args.output)], "seconds": seconds,
              "times": times, "warnings": list(result.warnings)}  # fmt: skip
    _tell(report, args.json)


def info(args: argparse.Namespace) -> None:
    """`hsd info`."""
    from hsd_jax import weights
    from hsd_jax.swapping.networks import SwapNetworks
    from hsd_jax.swapping.spec import PARTS

    folder = weights.find(args.weights)
    spec = SwapNetworks.load(folder).spec.describe()
    names = [*PARTS, "parser", *(["landmarks"] if weights.has_part(folder, "landmarks") else [])]
    networks = {name: weights.read_record(folder, name) for name in names}
    networks = {
        name: {key: record[key] for key in ("module", "parameters", "extra")}
        for name, record in networks.items()
    }
    if args.json:
        print(json.dumps({"weights": str(folder), "spec": spec, "networks": networks}))
        return
    from hsd_jax.runtime.console import table

    rows = [(name, row["module"], f"{row['parameters']:,}") for name, row in networks.items()]
    print(table(("network", "module", "parameters"), rows), end="\n\n")
    facts = {key: value for key, value in spec.items() if not isinstance(value, dict)}
    for group in ("schedule", "finish"):
        facts |= {f"{group}.{key}": value for key, value in spec[group].items()}
    print(table(("a swap", ""), [(key, str(value)) for key, value in facts.items()]))


def _swap_files(args: argparse.Namespace, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Swaps from files to files; returns the first sample's `SwapResult` and the report."""
    from hsd_jax.imaging import drawings, files
    from hsd_jax.imaging.sheets import contact_sheet

    started = round(process.age() - progress.seconds, 3)
    outputs = _numbered(args.output, args.samples)
    beside = [path for path in (args.sheet, args.save_layout) if path]
    for output in (*outputs, *beside):
        files.check_output(output)
        _check_not_read(output, [args.head, args.body, args.layout, args.mask])
    _check_apart([*outputs, *beside], args.save_steps)
    if args.save_layout and args.save_layout.suffix.lower() != ".png":
        raise ValueError(f"{args.save_layout}: a layout is a PNG: end the name in .png")
    if args.save_steps:
        if args.save_steps.exists() and not args.save_steps.is_dir():
            raise ValueError(f"{args.save_steps} is a file: give --save-steps a folder")
        check_folder(args.save_steps)
    progress.stage("reading the photos ...")
    # Read the photos first: unreadable ones are reported before JAX starts.
    head, body = spread(files.read_photo, (args.head, args.body))
    files.check_fits(body.pixels, args.output)
    mask = drawings.open_mask(args.mask) if args.mask else None

    credentials = _credentials(args)
    progress.stage("loading the weights ...")
    from hsd_jax.swap import HeadSwapper
    from hsd_jax.swapping.edits import Edit

    swapper = HeadSwapper.from_pretrained(args.weights)
    palette = swapper.spec.labels.palette if args.layout or args.save_layout else ()
    layout = drawings.open_layout(args.layout, palette) if args.layout else None
    options = {"generate": args.generate, "layout": layout, "mask": mask}
    edits = Edit.in_turn(_regions(args), args.hair, **options)
    once = "" if process.has_compiled() else "(and compiling, once) "
    results = swapper(
        head,
        body,
        seed=args.seed,
        steps=args.steps,
        samples=args.samples,
        solver=args.solver,
        preserve=args.preserve,
        skin_tone=args.skin_tone,
        light=args.light,
        person=args.person,
        head_person=args.head_person,
        keep_steps=args.save_steps is not None,
        align=args.align,
        edit=edits,
        progress=lambda stage: progress.stage(f"{stage} {once}..."),
    )
    results = results if isinstance(results, list) else [results]
    first = results[0]
    progress.stage("writing ...")
    if args.save_steps:
        args.save_steps.mkdir(parents=True, exist_ok=True)
        digits = max(2, len(str(len(first.steps))))
        for number, image in enumerate(first.steps, 1):
            path = args.save_steps / f"step-{number:0{digits}}.png"
            files.save_image(image, path, first.mark)
        files.save_animation(first.steps, args.save_steps / "steps.webp", first.mark)
    if args.save_layout:
        files.save_layout(first.photo_layout, args.save_layout, palette)
    if args.sheet:
        sheet = contact_sheet([result.image for result in results])
        files.save_image(sheet, args.sheet, first.mark)
    for output, result in reversed(list(zip(outputs, results, strict=True))):
        # OUT last: if it exists, all outputs do.
        result.save(output, label=args.label, credentials=credentials)
    report = {
        "output": str(outputs[0]),
        "outputs": [str(output) for output in outputs],
        "seconds": progress.seconds,
        "timings": {"starting": started, **progress.timings},
        "shift": first.shift,
        "faces": {"head": first.faces[0], "body": first.faces[1]},
        "warnings": list(first.warnings),
        "changed_fraction": _changed(first.image, body.pixels),
        "seed": args.seed,
    }
    return first, report


def _changed(image: Any, photo: Any) -> float:
    red, green, blue = (image != photo).transpose(2, 0, 1)
    return round(float((red | green | blue).mean()), 6)


def _regions(args: argparse.Namespace) -> list[Any]:
    """What `--region` names, in the order in which it is swapped."""
    return args.region or ["head"]


def _credentials(args: argparse.Namespace) -> Any:
    if args.sign is None:
        return None
    from hsd_jax.imaging.credentials import Credentials

    return Credentials.read(*args.sign)


def _tell(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for warning in report["warnings"]:
        tell(f"warning: {warning}")
    written = [*report["outputs"], *([report["strip"]] if "strip" in report else [])]
    print(f"wrote {', '.join(written)} in {report['seconds']:.1f} s")


def _numbered(output: Path, count: int) -> list[Path]:
    """OUT, OUT-2, OUT-3, ..."""
    others = [output.with_name(f"{output.stem}-{n}{output.suffix}") for n in range(2, count + 1)]
    return [output, *others]


def _check_not_read(output: Path, photos: Sequence[Path | None]) -> None:
    for photo in filter(None, photos):
        if output.exists() and photo.exists() and output.samefile(photo):
            raise ValueError(f"{output} is also an input: give another name")


def _check_apart(outputs: Sequence[Path], steps: Path | None) -> None:
    """ValueError where one file would be written over another of the same call."""
    places = [path.absolute() for path in outputs]
    if twice := [path for path, place in zip(outputs, places, strict=True)
                 if places.count(place) > 1]:  # fmt: skip
        raise ValueError(f"{twice[0]} would be written twice: give another name")
    inside = [path for path in outputs if path.stem.startswith("step")]
    if steps is not None and any(path.absolute().parent == steps.absolute() for path in inside):
        raise ValueError(f"{inside[0]} lies among the steps: give --save-steps another folder")


def parse(args: argparse.Namespace) -> None:
    """`hsd parse`."""
    from hsd_jax.imaging import files, opening

    for path in args.photos:
        if not path.exists():
            raise ValueError(opening.missing(str(path)))
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the photos in it")
    layouts = _targets(args.output, args.photos)
    overlays = _targets(args.overlay, args.photos) if args.overlay else []
    if set(layouts) & set(overlays):
        raise ValueError(f"{args.overlay} is where the layout goes: give --overlay another name")
    for target in layouts + overlays:
        files.check_output(target)
        _check_not_read(target, args.photos)

    with Progress() as progress:
        progress.stage("loading the weights ...")
        from hsd_jax import weights
        from hsd_jax.parsing.photo_parser import PhotoParser

        parser = PhotoParser.load(weights.find(args.weights))
        rows = []
        for index, (path, target) in enumerate(zip(args.photos, layouts, strict=True)):
            progress.stage(f"parsing {path} ...")
            overlay = overlays[index] if overlays else None
            rows.append(_parse_file(parser, path, target, overlay))
        seconds = progress.seconds
    if args.json:
        print(json.dumps({"labels": parser.labels.name, "photos": rows, "seconds": seconds}))
        return
    for row in rows:
        for warning in row["warnings"]:
            tell(f"warning: {warning}")
        print(f"wrote {row['output']} (faces: {len(row['faces'])})")


def _parse_file(parser: Any, path: Path, target: Path, overlay: Path | None) -> dict[str, Any]:
    """Writes the layout (and overlay) of one photo; returns its row of the report."""
    import numpy as np

    from hsd_jax.imaging import files
    from hsd_jax.imaging.sheets import numbered_faces
    from hsd_jax.labels import colorize

    photo = files.read_photo(path)
    image = photo.pixels
    layout, faces = parser.parse(image)
    labels = parser.labels
    if overlay:
        coloured = (image.astype(np.uint16) + colorize(layout, labels)) // 2
        shown = np.where(layout[..., None] == labels.background, image, coloured)
        shown = shown.astype(np.uint8)
        if len(faces) > 1:
            shown = numbered_faces(shown, [(face.x, face.y, face.size) for face in faces])
        files.save_image(shown, overlay, mark=None)
    files.save_layout(layout, target, labels.palette)
    counts = np.bincount(layout.ravel(), minlength=labels.num_classes) / layout.size
    return {
        "photo": str(path),
        "output": str(target),
        "overlay": str(overlay) if overlay else None,
        "size": [image.shape[1], image.shape[0]],
        "faces": [
            {"x": round(face.x, 1), "y": round(face.y, 1), "size": round(face.size, 1)}
            for face in faces
        ],
        "share": {
            name: round(float(count), 6) for name, count in zip(labels.classes, counts, strict=True)
        },
        "warnings": list(photo.notes),
    }


def verify(args: argparse.Namespace) -> int:
    """`hsd verify`; exit status 1 where an image carries no mark."""
    from hsd_jax.imaging.credentials import signer_of
    from hsd_jax.imaging.provenance import Mark

    mark, signer = Mark.read(args.image), signer_of(args.image)
    if args.json:
        made = None if mark is None else {"version": mark.version, "weights": mark.weights or None}
        print(json.dumps({"image": str(args.image), "made_by_hsd_jax": made, "signer": signer}))
    elif mark is None:
        print(f"{args.image}: no mark of hsd_jax, which does not mean that it is a photograph")
    else:
        by = f"hsd_jax {mark.version}, weights {mark.weights or 'unknown'}"
        print(f"{args.image}: synthetic, made by {by}{f'; signed by {signer}' if signer else ''}")
    return 1 if mark is None else 0


def convert(args: argparse.Namespace) -> None:
    """`hsd convert`."""
    with Progress() as progress:
        from hsd_jax.convert.command import run

        lines = run(args, progress.stage)
    for line in lines:
        print(line)


def _targets(output: Path, photos: Sequence[Path]) -> list[Path]:
    """The PNG for each photo: `output` itself, or a file in that folder named after the photo."""
    if len(photos) == 1 and output.suffix.lower() == ".png" and not output.is_dir():
        return [output]
    if not output.is_dir() and (output.suffix or output.exists()):
        kind = "a name that ends in .png, or a folder" if len(photos) == 1 else "a folder"
        raise ValueError(f"{output}: give {kind}")
    targets = [output / f"{photo.stem}.png" for photo in photos]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise ValueError(f"two photos would be written to {twice}: rename one")
    output.mkdir(parents=True, exist_ok=True)
    return targets
