"""An application with a charged endpoint."""

from fastapi import FastAPI

from entitlements import Entitlements
from entitlements.fastapi import install, require_credits

app = FastAPI()
install(app, Entitlements.open("sqlite:///books.db"))
require_credits("credits", 5, "a summary", user=lambda: "ada")
