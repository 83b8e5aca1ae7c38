"""Draws the README's picture: python tools/docs/screenshot.py runs/first/report.html docs/images/report.png.

Needs Chromium and its driver. The page is shown as on a screen of 1180 pixels, in light colors, from its top.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH, HEIGHT = 1180, 1345
#: So few colors hold the plots without visible loss, at a third of the size.
COLORS = 128


def screenshot(page: Path, picture: Path, *, height: int = HEIGHT) -> None:
    """Draw the top of a page into a png file."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_window_size(WIDTH, height)
        driver.get(page.resolve().as_uri())
        drawn = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
    drawn.quantize(COLORS, method=Image.Quantize.MEDIANCUT).save(picture, optimize=True)
    print(f"{picture}: {drawn.width} x {drawn.height}, {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]))
