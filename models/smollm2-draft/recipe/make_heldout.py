"""make_heldout.py : 40 hand-made chat prompts, in none of the training data -> ../heldout_prompts.jsonl"""

import json, prompts as P

U = [
    "What's the difference between a virus and a bacterium?",
    "My laptop has become very slow over the last months. What can I do about it?",
    "Write a short thank-you note to a neighbour who watered my plants.",
    "Plan a three-day trip to Lisbon for two people who like food and walking.",
    "Write a Python function that takes a list of dates as strings and returns the earliest one.",
    "Explain how a refrigerator keeps food cold.",
    "I have eggs, spinach and rice. What can I cook?",
    "Summarize the plot of Romeo and Juliet in three sentences.",
    "Give me ideas for a birthday present for a friend who likes astronomy.",
    "Why is the sky blue and the sunset red?",
    "Write a cover letter for a job as a librarian.",
    "How do I politely tell a colleague that he talks too loudly?",
    "Convert this list into a sentence: milk, bread, butter, honey.",
    "What are the main causes of the First World War?",
    "Write a haiku about the first snow.",
    "How can I learn to type faster?",
    "Given the table invoices(id, client, amount, paid, due_date), write SQL that lists the clients with unpaid invoices.",
    "Translate into French: Where is the nearest train station?",
    "A recipe for 4 people needs 300 g of flour. How much do I need for 6 people?",
    "Tell me a story about a lighthouse keeper who finds a message in a bottle.",
    "What is the difference between a list and a tuple in Python?",
    "How does a bill become a law in the United States?",
    "Write a one-paragraph review of an imaginary restaurant.",
    "What should I pack for a week of skiing?",
    "Explain what an API is to someone who has never programmed.",
    "Is it better to rent or to buy a flat? Give arguments for both.",
    "Write a text message that cancels dinner tonight because I am ill.",
    "Name the planets from the Sun outward with one fact on each.",
    "Write a bash command that finds all files larger than 100 MB.",
    "How do plants survive in the desert?",
    "Rewrite this more politely: Send me the report now.",
    "What are some good habits for saving money as a student?",
    "Write the opening scene of a detective story set in Venice.",
    "How do I remove a coffee stain from a white shirt?",
    "What is the capital of Australia, and why is it not Sydney?",
    "Give me a simple workout that I can do at home in 20 minutes.",
    "The following is a review: 'The room was clean, but the music next door kept us awake until three.' Is it positive or negative? Explain.",
    "Explain the rules of tennis scoring.",
    "Write a JavaScript snippet that changes the text of a button when it is clicked.",
    "Suggest names for a small shop that sells handmade candles.",
]
assert len(U) == 40
with open(__file__.rsplit("/", 2)[0] + "/heldout_prompts.jsonl", "w") as f:
    for u in U:
        ms = [dict(role="system", content=P.SYSTEMS[0]), dict(role="user", content=u)]
        f.write(json.dumps(dict(prompt=P.render(ms[1:]), messages=ms)) + "\n")
