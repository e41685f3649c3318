"""A chain of LangChain's. Needs langchain-openai, which speaks to any OpenAI-style server.

python langchain_chain.py "a lighthouse"
"""

import os
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_openai import OpenAI

base_url = os.environ.get("OCTAVO_BASE_URL", "http://127.0.0.1:8000/v1")
llm = OpenAI(
    model="smollm2-135m-instruct",
    base_url=base_url,
    api_key=os.environ.get("OCTAVO_API_KEY", "none is needed"),
    temperature=0,
    max_tokens=40,
)
chain = PromptTemplate.from_template("Once upon a time there was {subject}.") | llm
for piece in (chain | StrOutputParser()).stream({"subject": sys.argv[1]}):
    print(piece, end="", flush=True)
print()
