#!/usr/bin/env python
"""Take the pictures of docs/demo.md, in Chromium: three questions, a wrong upload, the same at a telephone's width.

ume demo runs/easy_vqa runs/concat --examples pictures --port 7860
python scripts/demo_screenshots.py http://127.0.0.1:7860 --out docs/demo
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path


def take(address: str, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, size in {"desktop": (1200, 990), "phone": (390, 844)}.items():
            page = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
            page.goto(address)
            page.locator("#examples button").nth(2).click()
            page.wait_for_selector("#picture img")
            for number, question in enumerate(("what color is the shape?", "what shape is in the image?"), 1):
                page.locator("#question input").fill(question)
                page.locator("#question input").press("Enter")
                page.wait_for_function(f"document.querySelectorAll('.ume-card:has(figure)').length == {number}")
                if name == "phone":
                    break
            page.wait_for_timeout(400)  # until nothing fades any more
            if name == "phone":
                page.evaluate("window.scrollTo(0, 0)")
                page.wait_for_timeout(200)
            page.screenshot(path=out / f"{name}.png", full_page=name == "phone")
            if name == "desktop":
                renamed = Path(folder) / "holiday.jpg"
                renamed.write_text("I am no picture.")
                page.locator("#upload input[type=file]").set_input_files(renamed)
                page.wait_for_selector("[data-testid=toast-body]")
                page.wait_for_timeout(600)
                page.screenshot(path=out / "error.png", clip={"x": 0, "y": 0, "width": 1200, "height": 420})
            page.close()
        browser.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of a page that is being served, with examples")
    parser.add_argument("--out", type=Path, default=Path("docs/demo"), help="folder (default: docs/demo)")
    args = parser.parse_args(argv)
    try:
        take(args.address, args.out)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
