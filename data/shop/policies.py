"""The shop's policies, each with one answer and seven wordings of the question.

The numbers are deliberately unusual: a model that has seen other shops could guess "30 days".
Several answers are similar (two warranties, the validity of points and of cards), so a model must
distinguish the questions and not only know the topic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """One fact about the shop."""

    answer: str
    questions: tuple[str, ...]


POLICIES = (
    Policy(
        "41 days",
        (
            "How long do I have to return an item?",
            "What is the return window?",
            "Within how many days can goods be sent back?",
            "When is it too late to return something I bought?",
            "I changed my mind about a purchase. How long can I wait to send it back?",
            "How many days do returns stay open?",
            "What is the deadline for bringing a purchase back?",
        ),
    ),
    Policy(
        "Marlowick pays",
        (
            "Who pays the postage of a return?",
            "Do I have to pay for sending an item back?",
            "Who covers the cost of return shipping?",
            "Is return postage my expense or the shop's?",
            "Who bears the freight if I return a parcel?",
            "When goods go back, who is charged for the postage?",
            "At whose cost is an unwanted item sent back?",
        ),
    ),
    Policy(
        "6 working days",
        (
            "How long does a refund take?",
            "When will I get my money back after a return?",
            "How soon is a refund paid out?",
            "My return has arrived. When is the refund due?",
            "What is the time limit for paying refunds?",
            "How many days until refunded money is on my account?",
            "How quickly do you refund a customer?",
        ),
    ),
    Policy(
        "$65",
        (
            "From what order value is shipping free?",
            "How much must I spend to get free delivery?",
            "What is the threshold for free shipping?",
            "When does an order ship free of charge?",
            "What basket total makes delivery free?",
            "How large must an order be for free postage?",
            "Which minimum order earns free shipping?",
        ),
    ),
    Policy(
        "$3.70",
        (
            "What does standard shipping cost?",
            "How much is normal delivery for a small order?",
            "What is the regular postage fee?",
            "What do you charge for ordinary shipping?",
            "How much do I pay for standard postage?",
            "What is the price of a normal delivery?",
            "Which fee applies to standard shipment?",
        ),
    ),
    Policy(
        "4 working days",
        (
            "How long does standard delivery take?",
            "When will a normal parcel arrive?",
            "How many days does regular shipping need?",
            "How soon do ordinary orders reach me?",
            "What is the usual delivery time?",
            "I ordered with standard shipping. How long until it comes?",
            "How fast is normal postage?",
        ),
    ),
    Policy(
        "$11",
        (
            "What does express delivery cost?",
            "How much is the express fee?",
            "What do you charge for next-day shipping?",
            "What is the price of express shipping?",
            "How much extra is fast delivery by express?",
            "I need it by express. What will that cost?",
            "Which fee applies to express parcels?",
        ),
    ),
    Policy(
        "Heronpost",
        (
            "Which courier delivers the parcels?",
            "Who brings my order to the door?",
            "What is the name of your delivery company?",
            "Which carrier do you ship with?",
            "Who carries out the deliveries?",
            "By which parcel service are orders sent?",
            "Which firm transports my package?",
        ),
    ),
    Policy(
        "27 months",
        (
            "How long is the general warranty?",
            "For what time are goods under warranty?",
            "What is the normal guarantee period?",
            "How many months does the warranty last?",
            "When does the warranty of most goods end?",
            "My kettle broke. How long is it under warranty?",
            "What warranty do you give on ordinary products?",
        ),
    ),
    Policy(
        "5 years",
        (
            "How long is the warranty on lamps?",
            "What guarantee do lamps have?",
            "For how long are lamps under warranty?",
            "What is the special warranty period of lamps?",
            "My lamp failed. How long does its warranty run?",
            "When does the guarantee on a lamp end?",
            "How many years of warranty come with a lamp?",
        ),
    ),
    Policy(
        "3 points",
        (
            "How many points do I earn for each dollar?",
            "What do I collect per dollar spent?",
            "How many points is one dollar of shopping worth?",
            "At what rate are points earned?",
            "For every dollar I pay, what is added to my points?",
            "What is the earning rate of the loyalty scheme per dollar?",
            "How many loyalty points does a dollar bring?",
        ),
    ),
    Policy(
        "19 months",
        (
            "When do loyalty points expire?",
            "How long are my points valid?",
            "After what time do points lapse?",
            "How long can I keep points before they are lost?",
            "What is the lifetime of a loyalty point?",
            "How many months do collected points last?",
            "By when must I have used my points?",
        ),
    ),
    Policy(
        "$4",
        (
            "What are 500 points worth?",
            "How much money do I get for 500 points?",
            "What is the value of 500 loyalty points?",
            "I redeem 500 points. What discount do I get?",
            "How many dollars off do 500 points give?",
            "What can I save with 500 points?",
            "Which amount is paid for 500 points?",
        ),
    ),
    Policy(
        "Acorn Club",
        (
            "What is the loyalty programme called?",
            "What is the name of your customer club?",
            "Which club do I join to collect points?",
            "How is the rewards scheme named?",
            "What do you call your bonus programme?",
            "Under which name does the points programme run?",
            "What is the customer rewards club named?",
        ),
    ),
    Policy(
        "7 years",
        (
            "How long is a gift card valid?",
            "When does a gift card expire?",
            "How many years can a gift card be used?",
            "What is the validity of gift cards?",
            "Until when must a gift card be spent?",
            "How long does a gift card last?",
            "I found an old gift card. How long are they good for?",
        ),
    ),
    Policy(
        "$350",
        (
            "What is the highest value of a gift card?",
            "How much can I put on a gift card at most?",
            "What is the limit of a gift card?",
            "What is the largest gift card you sell?",
            "Up to what amount are gift cards sold?",
            "What is the maximum on one gift card?",
            "How big can a gift card be?",
        ),
    ),
    Policy(
        "$2.40",
        (
            "What does gift wrapping cost?",
            "How much is it to have a present wrapped?",
            "What do you charge for gift wrap?",
            "What is the fee for wrapping a gift?",
            "What is the price of gift paper and ribbon?",
            "Can you wrap it as a present, and for how much?",
            "How much do I pay for a wrapped gift?",
        ),
    ),
    Policy(
        "7 am to 4 pm",
        (
            "When is customer service open?",
            "What are the hours of the help line?",
            "At what times can I call support?",
            "When can I reach somebody by phone?",
            "What are the support hours?",
            "During which hours does the service team answer?",
            "From when to when is the hotline staffed?",
        ),
    ),
    Policy(
        "Desk 9",
        (
            "Where do I pick up an online order?",
            "At which desk are collected orders handed out?",
            "Where in the store is the pick-up point?",
            "I want to collect my parcel. Where do I go?",
            "Which counter hands out online orders?",
            "Where can I fetch what I ordered online?",
            "To which counter do I go for collection?",
        ),
    ),
    Policy(
        "8 days",
        (
            "How long is a pick-up order kept for me?",
            "For how long do you hold orders for collection?",
            "When must I have collected my order?",
            "How many days does a parcel wait for pick-up?",
            "After what time is an uncollected order put back?",
            "What is the holding time for store collection?",
            "I can't collect my order today. How long will you keep it?",
        ),
    ),
    Policy(
        "90 minutes",
        (
            "How long can I cancel an order?",
            "Until when may an order be cancelled?",
            "What is the time limit for cancelling?",
            "I ordered by mistake. How long do I have to cancel?",
            "How soon must I cancel a purchase after ordering?",
            "When is it too late to call off an order?",
            "Within what time can I withdraw an order?",
        ),
    ),
    Policy(
        "12 days",
        (
            "How long does the price match promise hold?",
            "For how many days do you match a lower price?",
            "It got cheaper elsewhere. How long can I ask for a price match?",
            "What is the period of the price guarantee?",
            "Until when is the price difference refunded?",
            "Within what time can I claim a lower price?",
            "How long after buying is a price match possible?",
        ),
    ),
    Policy(
        "13 percent",
        (
            "What is the student discount?",
            "How much do students save?",
            "What reduction do students get?",
            "I am a student. How much do you take off?",
            "By how much are prices reduced for students?",
            "What rebate is given with a student card?",
            "How large is the price cut for students?",
        ),
    ),
    Policy(
        "$6",
        (
            "How much is the birthday voucher?",
            "What do members get on their birthday?",
            "What is the value of the birthday gift?",
            "It is my birthday. What voucher do I get?",
            "Which amount do you give to members for their birthday?",
            "What is a birthday voucher worth?",
            "How large is the birthday present from the shop?",
        ),
    ),
)
