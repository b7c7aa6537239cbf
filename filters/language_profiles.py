"""Function words and letters by which the common languages in Latin script are told apart.

A word that several languages share counts for each of them, with less weight the more share it. Words of the
trade (steps, sums, checking) are in the lists too, since reasoning is full of them.
"""

from __future__ import annotations

_WORDS: dict[str, str] = {
    "en": """the and of to is in that it for are as with be this was on we so then but not have from or an by at
        if which will can there their they what when where how all one would been has had its were more some only
        each other because since therefore thus hence first second next now let let's get gives means need must
        should could also just than these those my your our you he she his her us them who two three four five
        six seven eight nine ten wait check answer equals sum minus plus times number total left right wrong
        start step steps think again yes both before after out up do does don't doesn't isn't it's that's i'm
        we'll we're about into over any no same every such why find makes make take add subtract divide multiply
        solution problem question know here actually mistake try result value even odd still using use""",
    "es": """el la los las de que y en un una es se por con para como su al del lo más pero sus le ya o este sí
        porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno
        les ni contra otros ese eso ante ellos esto mí antes algunos qué unos otro otras otra él tanto esa estos
        mucho nada muchos cual son está están ser tiene entonces primero segundo luego ahora espera respuesta
        suma resta igual número dos tres cuatro cinco seis siete ocho nueve diez así pues aquí paso tenemos hemos
        obtenemos queda vamos comprobar mal bien correcto total menos por lo tanto toda persona derecho""",
    "fr": """le la les de des du un une et est en que qui dans pour pas sur au aux avec ce cette ces il elle ils
        elles on nous vous je tu ne se sa son ses leur leurs par plus ou où mais donc or ni car comme tout tous
        toute être avoir fait sont était a ont si sans sous entre aussi bien très peut même quand alors d'abord
        puis ensuite maintenant attends réponse somme égal égale nombre deux trois quatre cinq six sept huit neuf
        dix ainsi voici étape reste moins faut vérifions vérifier c'est n'est d' l' qu' j' s' n' m' c' y droit
        erreur encore faux juste total ici après avant""",
    "de": """der die das und ist in zu den von mit sich des auf für nicht ein eine als auch es an werden aus er hat
        dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur
        bis mehr durch man sein wurde wenn können kann wir ich du ihr uns ihm ihn dem eines unter gegen vom ohne
        also dann zuerst zuletzt danach jetzt warte antwort summe gleich zahl zwei drei vier fünf sechs sieben
        acht neun zehn plus minus mal geteilt richtig falsch rechnen schritt ergibt ergebnis daher deshalb weil
        hier muss müssen prüfen prüfe nochmal fehler insgesamt rest erst recht jeder jede anspruch""",
    "it": """il lo la i gli le di a da in con su per tra fra e che non un una uno è sono si mi ti ci vi ne ma se come
        anche più del della dei delle dello degli al alla ai alle nel nella nei nelle dal dalla dai sul sulla
        questo questa questi queste quello quella essere ha hanno ho abbiamo era molto tutto tutti quando dove chi
        perché allora poi prima quindi adesso ora aspetta risposta somma uguale numero due tre quattro cinque sei
        sette otto nove dieci così qui passo resta meno più otteniamo verifichiamo giusto sbagliato totale ogni
        individuo diritto dopo ancora solo l' dell' all' un' d' nell' dall' c'""",
    "pt": """o a os as de do da dos das em no na nos nas um uma uns umas e é que não se por para com como mais mas
        ao aos à às pelo pela pelos ou seu sua seus suas ele ela eles elas isso isto este esta esse essa quando
        muito já também só até são está foi ser ter tem têm há nós eu você depois então primeiro agora espera
        resposta soma igual número dois duas três quatro cinco seis sete oito nove dez assim aqui passo temos
        obtemos resta menos portanto porque vamos verificar certo errado total entre sem sobre toda pessoa
        direito ainda cada onde""",
    "nl": """de het een en van in is dat op te zijn voor met die niet aan er om ook als dan maar door bij of uit naar
        heeft hij ze zij wij we je jij ik mijn zijn haar ons onze hun wordt worden werd was waren kan kunnen moet
        moeten zal zullen dus eerst nu wacht antwoord som gelijk getal twee drie vier vijf zes zeven acht negen
        tien plus min keer gedeeld juist fout stap geeft omdat hier nog meer over geen deze dit wat wie waar
        wanneer alle elk ieder iedere recht toch krijgen we eens""",
}

_LETTERS: dict[str, dict[str, float]] = {
    "ñ": {"es": 1.5}, "¿": {"es": 1.5}, "ß": {"de": 1.5}, "ä": {"de": 0.9}, "ö": {"de": 0.9},
    "ü": {"de": 0.8, "es": 0.2}, "ã": {"pt": 1.5}, "õ": {"pt": 1.5}, "ç": {"fr": 0.7, "pt": 0.8},
    "œ": {"fr": 1.5}, "ê": {"fr": 0.8, "pt": 0.6}, "è": {"fr": 0.8, "it": 0.8}, "à": {"fr": 0.5, "it": 0.6},
    "ù": {"fr": 0.5, "it": 0.6}, "ò": {"it": 1.0}, "ì": {"it": 1.0}, "î": {"fr": 1.2}, "û": {"fr": 1.2},
    "ô": {"fr": 0.7, "pt": 0.5}, "â": {"fr": 0.6, "pt": 0.6}, "á": {"es": 0.6, "pt": 0.6},
    "í": {"es": 0.7, "pt": 0.5}, "ó": {"es": 0.7, "pt": 0.5}, "ú": {"es": 0.6, "pt": 0.6},
    "é": {"fr": 0.6, "es": 0.4, "pt": 0.4}, "ë": {"nl": 0.6, "fr": 0.4}, "ï": {"nl": 0.5, "fr": 0.5},
}  # fmt: skip

LATIN_LANGUAGES: tuple[str, ...] = tuple(_WORDS)
MARKED_LETTERS = _LETTERS


def _weighted() -> dict[str, dict[str, float]]:
    owners: dict[str, list[str]] = {}
    for language, words in _WORDS.items():
        for word in set(words.split()):
            owners.setdefault(word, []).append(language)
    return {word: dict.fromkeys(found, 1.0 / len(found) ** 0.5) for word, found in owners.items()}


EVIDENCE: dict[str, dict[str, float]] = _weighted()
"""Lower-case word -> {language: weight}: 1 for a word of one language only, 1/sqrt(n) where n share it."""
