"""The table of how faithful explanations are."""

from __future__ import annotations

from training_ume.report.markdown import markdown, measured_on


def explanations_table(report: dict) -> str:
    """What benchmarks/explanations.py wrote, as two Markdown tables with what was measured under them."""
    names = {
        "grad_cam": "Grad-CAM",
        "integrated": "integrated gradients",
        "pair_weights": "the head's pair weights",
        "random": "random order",
        "best_cell": "the one best cell of Grad-CAM's grid",
        "uniform": "a map that is the same everywhere",
    }

    def percent(value: dict) -> str:
        return "–" if value["mean"] is None else f"{100 * value['mean']:.1f} %"

    models = report["models"]
    rows = []
    for name in names:
        cells = [names[name]]
        for model in models.values():
            trained, untrained = (model[state]["mass_in_box"].get(name) for state in ("trained", "untrained"))
            if trained is None:  # a row of the other table
                break
            drawn = name in ("uniform", "best_cell")  # by the picture, not by a model
            error = f" ± {100 * trained['se']:.1f}" + (f" ({percent(untrained)})" if not drawn else "")
            cells.append(percent(trained) + error)
        else:
            rows.append(cells)
    header = ["positive mass in the shape's box (untrained model)", *models]
    tables = [markdown(header, rows, right=tuple(range(1, len(header))))]
    rows = []
    for name in names:
        cells = [names[name]]
        for model in models.values():
            for kind in ("deletion", "insertion"):
                value = model["trained"]["masking"][kind].get(name)
                if value is not None:
                    beats = "" if name == "random" else f" ({100 * value['better_than_random']:.0f} %)"
                    cells.append(f"{value['mean']:.3f} ± {value['se']:.3f}{beats}")
        if len(cells) > 1:
            rows.append(cells)
    header = ["area under the curve (images on which it beats random order)"]
    header += [f"{name}: {kind}" for name in models for kind in ("deletion, low", "insertion, high")]
    tables.append(markdown(header, rows, right=tuple(range(1, len(header)))))
    described = "; ".join(
        f"{name}: {model['exact_match']:.2f} % exact match, Grad-CAM at "
        f"{'what enters' if model['layer_is_block_input'] else 'what leaves'} `{model['layer']}`, "
        f"{model['trained']['mass_in_box']['grad_cam']['without_mass']} maps without positive mass"
        for name, model in models.items()
    )
    tables.append(
        f"{report['data']}: {report['images']} images, {report['masked_images']} of them masked, "
        f"{report['control_images']} shown to an untrained model; ± is the standard error over images. {described}. "
        f"{measured_on([report['environment']])}"
    )
    return "\n\n".join(tables)
