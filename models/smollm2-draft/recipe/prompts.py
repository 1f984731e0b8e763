"""Prompts made from templates x topics (training and held-out split by hash of the prompt)."""

import random, zlib

TOPICS = """photosynthesis|black holes|the water cycle|volcanoes|the French Revolution|the Roman Empire|the Silk Road|ancient Egypt|World War II|the Industrial Revolution|inflation|supply and demand|compound interest|stock markets|budgeting|
small business marketing|customer service|job interviews|remote work|time management|public speaking|negotiation|leadership|teamwork|project management|machine learning|neural networks|databases|operating systems|computer networks|cybersecurity|
encryption|version control with Git|web development|unit testing|recursion|sorting algorithms|binary search|hash tables|linked lists|regular expressions|REST APIs|cloud computing|the Linux command line|renewable energy|solar panels|wind turbines|
electric cars|climate change|recycling|deforestation|coral reefs|whales|honey bees|penguins|dinosaurs|evolution|genetics|vaccines|the immune system|the human heart|healthy eating|sleep|stress|meditation|yoga|running a marathon|strength training|
swimming|football|chess|photography|painting|jazz music|classical music|learning the guitar|poetry|Shakespeare|science fiction|film making|theatre|gardening|growing tomatoes|house plants|baking bread|making pasta|vegetarian cooking|coffee|tea|
chocolate|travelling in Japan|a weekend in Paris|hiking in the mountains|camping|road trips|sailing|space exploration|the Moon|Mars|the solar system|gravity|electricity|magnets|sound|light and colour|the periodic table|acids and bases|fractions|
percentages|the Pythagorean theorem|probability|statistics|linear equations|prime numbers|calculus|logic puzzles|learning Spanish|learning English|writing essays|reading habits|libraries|museums|schools|parenting|pets|training a dog|cats|
moving house|buying a used car|home repairs|first aid|airports|trains|bicycles|bridges|skyscrapers|robots|drones|smartphones|video games|social media|journalism|democracy|elections|human rights|friendship|happiness|creativity|birthdays|weddings|holidays""".replace(
    "\n", ""
).split(
    "|"
)
ASK = """What is the most important thing to know about {t}?|Explain {t} to a ten-year-old.|Can you explain {t} in simple terms?|Give me five facts about {t}.|Write a short paragraph about {t}.|What are the benefits and drawbacks of {t}?|
How did {t} change the world?|List ten words related to {t}.|Write a short story that involves {t}.|Write a poem about {t}.|Give me three tips about {t}.|What are common misunderstandings about {t}?|Create a quiz with three questions about {t} and give the answers.|
Write an email to a colleague to propose a talk about {t}.|Write a tweet about {t}.|Summarize what you know about {t} in two sentences.|How would you teach a beginner about {t}? Give a step-by-step plan.|What questions should I ask an expert on {t}?|
Write a dialogue between a teacher and a student about {t}.|Suggest a title and an outline for a blog post about {t}.|I'm curious about {t}. Where should I start?|Why do people care about {t}?|Compare {t} and {u}.|What do {t} and {u} have in common?|
Write a product description for a book on {t}.|Write a speech opening on the subject of {t}.|What is the history of {t}?|Make a table with pros and cons of {t}.|Write a letter to a friend about {t} and {u}.|Give me a daily plan for someone who is interested in {t}.|
Hi! I need help with a school essay on {t}.|Is {t} difficult to learn about? Answer briefly.|Name three famous people connected with {t} and say why.|What will {t} look like in fifty years?|Write a limerick about {t}.|Translate this sentence to French: I have read a lot about {t}.|
Translate to Spanish: My sister is very interested in {t}.|Translate into German: Tomorrow we will talk about {t}.|Rewrite this sentence in a formal tone: hey, {t} is super cool and you should check it out.|Correct the grammar: She don't knows nothing about {t}.""".replace(
    "\n", ""
).split(
    "|"
)
CODE = """Write a Python function that {c}.|Write a JavaScript function that {c}.|Write a Python program that {c}, with comments.|How do I write code that {c}? Explain each step.|Write a unit test in Python for a function that {c}.|Write a C function that {c}.""".replace(
    "\n", ""
).split(
    "|"
)
TASKS = """reverses a string|checks whether a number is prime|returns the n-th Fibonacci number|sorts a list of numbers|counts the words in a text|finds the largest number in a list|removes duplicates from a list|checks whether a word is a palindrome|merges two dictionaries|
reads a CSV file and prints each row|computes the average of a list|converts Celsius to Fahrenheit|finds the longest word in a sentence|counts vowels in a string|flattens a nested list|computes the factorial of a number|generates a random password|validates an email address|
finds common elements of two lists|implements binary search|implements a stack|calculates compound interest|prints a multiplication table|parses JSON and prints the keys|measures how long a function takes|downloads a web page|groups words by first letter|rotates a list by k positions|
finds the greatest common divisor of two numbers|transposes a matrix""".replace(
    "\n", ""
).split(
    "|"
)
SCHEMAS = [
    ("employees", "id, name, department, salary, hire_date", "salary", "department"),
    ("orders", "order_id, customer_id, product, quantity, price, order_date", "price", "product"),
    ("students", "student_id, name, grade, city, age", "grade", "city"),
    ("movies", "movie_id, title, director, year, rating, genre", "rating", "genre"),
    ("flights", "flight_no, origin, destination, distance, airline", "distance", "airline"),
    ("books", "isbn, title, author, pages, price, publisher", "pages", "publisher"),
]
SQL = [
    "Write a SQL query that returns the five rows with the highest {x}.",
    "Write a SQL query for the average {x} per {g}.",
    "How many rows are there for each {g}? Answer with SQL.",
    "Write SQL to list all rows whose {x} is above the average.",
    "Show the distinct values of {g}, sorted, in SQL.",
    "Which {g} has the largest total {x}? Write the query and explain it.",
]
TEXTS = [
    "The city council voted on Tuesday to extend the tram line to the northern suburbs. Work will begin next spring and is expected to cost 240 million euros. Shop owners fear two years of noise, while commuters welcome the shorter trip.",
    "Researchers report that a common soil fungus can break down a widely used plastic within 140 days. The process works best at 30 degrees. They warn that it is no substitute for using less plastic, and that larger trials are needed.",
    "Maria opened her bakery at four every morning for thirty years. Last week she sold it to two former apprentices, who plan to keep the recipes but add a small cafe. The neighbours threw a party in the street.",
    "The company's revenue rose 12 percent in the third quarter, driven by subscriptions, while hardware sales fell. The chief executive said that hiring will slow down, and that a new product will be announced in January.",
    "Bees navigate by the position of the sun and by the polarisation of light. When a forager finds flowers, she tells the others by a dance whose angle stands for the direction, and whose length stands for the distance.",
    "Our flight was delayed for six hours because of fog. The airline gave us a voucher for lunch, but the restaurants were already full. In the end we played cards on the floor and made friends with a family from Norway.",
]
ONTEXT = [
    "Summarize the following text in one sentence:\n\n{x}",
    "What are the key points of this text?\n\n{x}",
    "Rewrite the text for a child:\n\n{x}",
    "Read the text and answer: what happened, and why does it matter?\n\n{x}",
    "Give the text below a headline and three keywords.\n\n{x}",
    "Extract all numbers in this text and explain them:\n\n{x}",
    "Continue this text:\n\n{x}",
    "{x}\n\nSummarize this in a concise manner.",
]
MAIL = """asking for a day off|apologising for a late delivery|thanking a client for a meeting|inviting the team to a summer party|asking for a refund|reminding people of a deadline|introducing a new colleague|declining an invitation politely|asking a professor for a recommendation letter|
reporting a bug in a program|confirming an appointment|resigning from a job|proposing a price increase|asking neighbours to be quiet|requesting feedback on a draft""".replace(
    "\n", ""
).split(
    "|"
)
MAILQ = [
    "Write an email {m}.",
    "Write a short, friendly message {m}.",
    "Draft a formal letter {m}.",
    "Give me two versions of an email {m}: one formal, one casual.",
]
MATH = [
    "What is {a} times {b}?",
    "A train travels {a} km in {c} hours. What is its average speed?",
    "Anna has {a} apples and gives {c} to Tom. How many are left? Explain.",
    "What is {c} percent of {b}0?",
    "Solve for x: {c}x + {a} = {b}{c}.",
    "A shirt costs ${a} and is {c}0% off. What is the new price?",
    "The sum of two numbers is {b} and their difference is {c}. Find the numbers.",
]
SYSTEMS = ["You are a helpful AI assistant named SmolLM, trained by Hugging Face"] * 7 + [
    "You are a helpful assistant.",
    "You are a friendly teacher who explains things briefly.",
    "You are an expert programmer. Answer with code and short explanations.",
]


def draw(r):
    k = r.random()
    c = r.choice
    if k < 0.60:
        u = c(ASK).format(t=c(TOPICS), u=c(TOPICS))
    elif k < 0.70:
        u = c(CODE).format(c=c(TASKS))
    elif k < 0.77:
        s = c(SCHEMAS)
        u = f"I have a table {s[0]}({s[1]}). " + c(SQL).format(x=s[2], g=s[3])
    elif k < 0.87:
        u = c(ONTEXT).format(x=c(TEXTS))
    elif k < 0.94:
        u = c(MAILQ).format(m=c(MAIL))
    else:
        u = c(MATH).format(a=r.randint(12, 90), b=r.randint(12, 99), c=r.randint(2, 9))
    return u


def heldout(prompt):
    return zlib.crc32(prompt.encode()) % 100 < 5


def render(messages, system=SYSTEMS[0]):
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        + "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        + "<|im_start|>assistant\n"
    )
