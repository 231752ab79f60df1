"""Headless Chromium. Importing this skips the tests of a module where selenium or the system's chromium is missing."""

import json
import pathlib
import shutil

import pytest

pytest.importorskip("selenium", reason="pip install selenium")
if not shutil.which("chromium") or not shutil.which("chromedriver"):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

__all__ = ["By", "Chrome", "Keys", "Select", "WebDriverWait", "as_phone", "browser", "requests"]


def browser(downloads: pathlib.Path, size: str = "1360,950", dark: bool = False, still: bool = False) -> Chrome:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={size}"):
        options.add_argument(argument)
    if still:
        options.add_argument("--force-prefers-reduced-motion")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    permissions = {"profile.default_content_setting_values.automatic_downloads": 1}  # several of one page
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads), **permissions})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    if dark:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return driver


def as_phone(driver: Chrome, width: int) -> None:
    """Show pages as a phone of this width does."""
    screen = {"width": width, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def requests(driver: Chrome) -> list[str]:
    """Addresses that were asked for since the last call."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
