"""What the voice commands speak of: rooms, devices, lists and titles of a made-up home.

Of every list the last third is kept for the test half of whose commands speak of nothing seen in training.
"""

from __future__ import annotations

AREAS = """kitchen, living room, bedroom, bathroom, hallway, garage, office, garden, dining room, basement, attic,
nursery, laundry room, guest room, pantry, porch, study, patio, utility room, master bedroom, playroom, library,
workshop, conservatory, den, sunroom, music room, greenhouse, loft, cellar""".replace("\n", " ").split(", ")

FLOORS = "first, second, ground, upper, lower, top, third, bottom, fourth".split(", ")

NAMES = {
    "light": "desk lamp, reading lamp, ceiling spot, star lantern, bedside lamp, mirror spot, piano lamp, "
    "counter strip, balcony lantern, corner lamp, salt lamp, stairs strip",
    "switch": "coffee maker, heated blanket, christmas tree, water pump, aquarium heater, air purifier, "
    "electric kettle, rice cooker, dehumidifier",
    "fan": "tower fan, desk fan, exhaust fan, box fan, pedestal fan, window fan",
    "media_player": "sonos speaker, tv, record player, radio, projector, soundbar, echo dot, apple tv, cinema",
    "climate": "thermostat, radiator, heat pump, floor heating, air conditioner, towel heater",
    "cover": "left blind, right curtain, roller shutter, skylight, velvet curtain, bamboo shade, bay window, "
    "side gate, awning one",
    "valve": "main valve, sprinkler valve, gas valve, rain barrel valve, hose valve, boiler valve",
    "lock": "front door, back door, shed door, wine cabinet, side entrance, cellar hatch",
    "scene": "movie night, sunrise, dinner party, focus time, cosy evening, bedtime, spring morning, game night, "
    "quiet hour",
    "script": "morning routine, goodnight routine, cleaning day, vacation mode, alarm drill, feeding time",
    "button": "doorbell chime, reboot router, feed the cat, open sesame, restart server, water roses",
    "binary_sensor": "mailbox, motion detector, smoke detector, fridge door, leak sensor, pet door",
    "sensor": "outdoor thermometer, rain gauge, power meter, humidity sensor, air quality monitor, wind gauge",
    "input_boolean": "guest mode, holiday mode, night mode, quiet mode, party mode, away mode",
    "vacuum": "roomba, dusty, robot vacuum, rosie, sir sucks a lot, vroomie",
    "lawn_mower": "mower, grass cutter, lawnbot, shaun the sheep, robomow, clippy",
    "todo": "errands, chores, packing, homework, renovation, birthday",
    "person": "alice, james, maria, oliver, sofia, tom, priya, henry, yuki",
    "weather": "london, boston, amsterdam, paris, lisbon, oslo, nairobi, kyoto, montreal",
    "other": "printer, chandelier, sewing machine, laptop charger, fountain, fireplace, telescope lamp, jukebox, "
    "pizza oven",
}

WILDCARDS = {
    "message": "dinner is ready, the taxi is here, we leave in ten minutes, movie starts now, please come down, "
    "the dog needs a walk, lunch is on the table, the guests have arrived, time for school",
    "search_query": "abba, jazz, the beatles, dark side of the moon, bohemian rhapsody, workout mix, rain sounds, "
    "the daily news, planet earth, nina simone, summer hits, moonlight sonata",
    "zone": "work, school, the gym, town, the park, the office downtown, university, the airport, the harbour",
    "timer_name": "pizza, pasta, laundry, tea, egg, bread, nap, workout, cookies, rice, turkey, meditation",
    "timer_command": "turn off the lights, open the garage door, close the blinds, lock the front door, "
    "play some music, turn on the coffee maker, start the vacuum, pause the tv, turn off the heater",
    "shopping_list_item": "milk, eggs, olive oil, dish soap, apples, toilet paper, coffee beans, cheddar, "
    "batteries, oat milk, garlic, trash bags",
    "todo_list_item": "call the dentist, buy stamps, water the plants, pay the rent, wash the car, clean the oven, "
    "book a hotel, fix the tap, return the books",
}


def shared(values: list[str]) -> tuple[list[str], list[str]]:
    """The values for training, and the last third, which it never sees."""
    kept = len(values) - len(values) // 3
    return values[:kept], values[kept:]
